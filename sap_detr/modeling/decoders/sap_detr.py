"""SAP-DETR's decoder: queries with a salient point and the distances from it to the box's sides.

"SAP-DETR: Bridging the Gap Between Salient Points and Queries-Based Transformer Detector for Fast
Model Convergency" (Liu et al., CVPR 2023). Where paper and published code differ, this is the code.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import (
    MLP,
    Linear,
    PositionedSelfAttention,
    encode_points,
    full_precision,
    linear_side_by_side,
    masked_group_norm,
    xavier_init_matrices,
)
from ..reference_points import (
    EPS,
    boxes_from_sides,
    corners_from_sides,
    grid_points,
    inverse_sigmoid,
)
from ..structures import FeatureMap, Predictions, single_level
from .layer import RARE, LayerMemory, PostNormDecoderLayer
from .point_attention import PointCrossAttention, QueryPosition


class SapDetrDecoderLayer(PostNormDecoderLayer):
    """Self-attention of the queries, cross-attention to the memory, feed-forward network.

    Args:
        embed_dim: width D of queries and memory.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability everywhere.
        gaussian, gaussian_form: see :class:`PointCrossAttention`.
    """

    cross_attn: PointCrossAttention

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        gaussian: bool = True,
        gaussian_form: str = "bias",
    ) -> None:
        self_attn = PositionedSelfAttention(embed_dim, num_heads, dropout, num_positions=2)
        cross_attn = PointCrossAttention(embed_dim, num_heads, dropout, gaussian, gaussian_form)
        super().__init__(self_attn, cross_attn, embed_dim, ffn_dim, dropout)

    def forward(
        self,
        content: Tensor,
        position: QueryPosition,
        memory: LayerMemory,
        shared_query: Tensor | None = None,
        groups: int = 1,
    ) -> Tensor:
        """Map content (B, Q, D) to (B, Q, D).

        Args:
            content, position, memory, shared_query: see :class:`PointCrossAttention`.
            groups: of queries that do not see each other, group after group.
        """
        attended = self.self_attn(
            content, position.point_embed, position.sides_embed, groups=groups
        )
        content = self.add_self_attention(content, attended)
        return self.finish(content, self.cross_attn(content, position, memory, shared_query))


class ContentInitializer(nn.Module):
    """Samples the initial content of the queries from a transformed copy of the memory.

    Args:
        embed_dim: width D.
        num_layers: number of 3x3 convolutions, each with group normalisation and ReLU.
        num_groups: groups of the normalisation.
    """

    def __init__(self, embed_dim: int, num_layers: int = 3, num_groups: int = 32) -> None:
        super().__init__()
        convs = [nn.Conv2d(embed_dim, embed_dim, 3, padding=1) for _ in range(num_layers)]
        for conv in convs:
            nn.init.normal_(conv.weight, std=0.01)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.GroupNorm(num_groups, embed_dim) for _ in range(num_layers))

    def forward(self, features: Tensor, points: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Bilinear samples, with zeros outside of the map.

        Args:
            features: (B, D, H, W).
            points: (B, Q, 2), (x, y) as fractions of the map.
            padding_mask: (B, H, W) bool: cells that are to be as if they were outside of the map;
                None for no such cells.

        Returns:
            (B, Q, D).
        """
        x = features
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[:, None], 0)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)
            if padding_mask is None:
                x = norm(x)
            else:
                x = masked_group_norm(x, cast(nn.GroupNorm, norm), padding_mask)
            x = F.relu(x)
        grid = (2 * points - 1)[:, :, None]
        sampled = F.grid_sample(full_precision(x), grid, align_corners=False)
        return sampled[..., 0].transpose(1, 2)


class SapDetrDecoder(nn.Module):
    """SAP-DETR's decoder with its heads.

    Every query has a point that moves inside its own cell of a fixed grid over the image, and the
    distances from it to the sides of its box. Both are refined by every layer. The heads of layer
    k read the point that entered layer k - 1, but the sides that entered layer k, as published.

    With ``num_groups`` K > 1 it is SAP-Group-DETR, which is ours: training as Group DETR does (Chen
    et al., ICCV 2023), with K sets of queries that share all else and do not see each other.
    Evaluation uses the first set alone, and is SAP-DETR's.

    Args:
        num_classes: number of object classes C.
        grid_size: (rows, columns) of the grid; their product is the number of queries Q.
        num_layers: number of layers L.
        embed_dim: width D of queries and memory.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward networks.
        dropout: dropout probability.
        temperature: of the sine encodings of points and corners.
        gaussian: add the side-directed Gaussian to the cross-attention.
        gaussian_form: "bias" or "folded"; equal, see :func:`sap_detr.layers.gaussian_attention`.
        content_from_memory: start the content with samples of the memory, or else with zeros.
        shared_box_heads: one point head and one box head for all layers, or one for each.
        num_groups: groups of queries K, of ``grid_size`` each, in training.
        shift_groups: shift the grid of every further group by another fraction of a cell, see
            :func:`group_shifts`; if False, groups differ in their sides only.
        padding_invariant: measure points and sides of an image in its own cells and keep padding
            out of the initial content. If False, as published, they are fractions of the padded
            map in the Gaussian and in the initial content, so that predictions depend on how much
            an image is padded.

    Raises:
        ValueError: if the grid is empty, ``gaussian_form`` unknown or ``num_groups`` below 1.
    """

    def __init__(
        self,
        num_classes: int,
        grid_size: tuple[int, int] = (17, 18),
        num_layers: int = 6,
        embed_dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        temperature: float = 20.0,
        gaussian: bool = True,
        gaussian_form: str = "bias",
        content_from_memory: bool = True,
        shared_box_heads: bool = False,
        padding_invariant: bool = False,
        num_groups: int = 1,
        shift_groups: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, got {num_groups}")
        self.num_groups = num_groups
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.padding_invariant = padding_invariant
        rows, columns = grid_size
        grid = inverse_sigmoid(grid_points(rows, columns), EPS)
        self.reference_points = nn.Parameter(grid, requires_grad=False)
        self.reference_sides = nn.Parameter(torch.randn(rows * columns, 4))
        # Whole numbers, hence exact in every dtype; a cell is 1 / grid_size.
        self.grid_size: Tensor
        size = torch.tensor([float(columns), float(rows)])
        self.register_buffer("grid_size", size, persistent=False)

        layer = SapDetrDecoderLayer(embed_dim, num_heads, ffn_dim, dropout, gaussian, gaussian_form)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.first_query_point = Linear(embed_dim, embed_dim)
        self.first_query_sides = Linear(embed_dim, embed_dim)
        self.sine_scale = MLP(embed_dim, embed_dim, embed_dim, 2) if num_layers > 1 else None
        for module in (
            self.layers,
            self.first_query_point,
            self.first_query_sides,
            self.sine_scale,
        ):
            if module is not None:
                xavier_init_matrices(module)
        self.norm = nn.LayerNorm(embed_dim)

        self.content_init = ContentInitializer(embed_dim) if content_from_memory else None
        self.point_embed = MLP(embed_dim, embed_dim, embed_dim, 2)
        self.sides_embed = MLP(2 * embed_dim, embed_dim, embed_dim, 2)
        # The last head of each list serves all further layers.
        num_box_heads = 1 if shared_box_heads else num_layers
        self.point_heads = _equal_heads(embed_dim, 2, num_box_heads, zero_weight=True)
        self.sides_heads = _equal_heads(embed_dim, 4, num_box_heads, zero_weight=True)
        self.class_heads = _equal_heads(embed_dim, num_classes, min(num_layers, 2), bias=RARE)
        self.object_head = nn.Linear(embed_dim, 1)
        nn.init.constant_(self.object_head.bias, RARE)

        # Apart from the first group's, so that checkpoints are SAP-DETR's but for these; and last,
        # so that all else starts with the same random numbers.
        self.group_points: nn.Parameter | None = None
        self.group_sides: nn.Parameter | None = None
        if num_groups > 1:
            shifts = (
                group_shifts(num_groups)[1:, None]
                if shift_groups
                else torch.zeros(num_groups - 1, 1, 2)
            )
            shifted = (grid_points(rows, columns) + shifts / self.grid_size).flatten(0, 1)
            shifted = inverse_sigmoid(shifted, EPS)
            self.group_points = nn.Parameter(shifted, requires_grad=False)
            self.group_sides = nn.Parameter(torch.randn(len(shifted), 4))

    def forward(self, memory: Sequence[FeatureMap], all_layers: bool = True) -> Predictions:
        """Decode one batch.

        Args:
            memory: a single level, as the encoder returns it.
            all_layers: False computes the class and box heads of the last layer only, all that
                inference needs, and no objectness.

        Returns:
            Predictions of all layers, or of the last one with L = 1.
        """
        level = single_level(memory)
        groups = self.num_groups if self.training else 1
        grid, sides = self.query_references(groups)
        points = grid
        content = self.initial_content(level, grid)
        head_points, attended_sides = points, sides
        layer_memories = self.project_memory(level)
        contents, references = [], []
        for index, layer in enumerate(self.layers):
            shared_query = None
            if index > 0:
                head_points = points
                points = self.refine_points(index - 1, content, points, grid).detach()
                # With its graph for the heads, without it for the next layer.
                sides = self.refine_sides(index - 1, content, attended_sides)
                attended_sides = sides.detach()
            position = self.embed_position(points, attended_sides, content if index else None)
            if index == 0:
                shared_query = self.first_query_point(position.point_embed)
                shared_query = shared_query + self.first_query_sides(position.sides_embed)
            content = layer(content, position, layer_memories[index], shared_query, groups)
            contents.append(content)
            references.append((head_points, sides))
        first = 0 if all_layers else len(self.layers) - 1
        hidden = self.norm(torch.stack(contents[first:]))
        layers = list(enumerate(zip(hidden, references[first:], strict=True), first))
        logits = torch.stack([_head_of(self.class_heads, index)(x) for index, (x, _) in layers])
        points = torch.stack(
            [self.refine_points(index, x, start, grid) for index, (x, (start, _)) in layers]
        )
        sides = torch.stack(
            [self.refine_sides(index, x, start) for index, (x, (_, start)) in layers]
        )
        return Predictions(
            logits=full_precision(logits),
            boxes=boxes_from_sides(points, sides),
            points=points,
            objectness=full_precision(self.object_head(hidden)) if all_layers else None,
            groups=groups,
        )

    def query_references(self, groups: int) -> tuple[Tensor, Tensor]:
        """Return the corners of the cells, (1, Q, 2), and the first sides of queries, (1, Q, 4).

        Q is ``groups``, 1 or K, times the number of cells.
        """
        references = self.reference_points, self.reference_sides
        further = self.group_points, self.group_sides
        points, sides = (
            full_precision(first if groups == 1 or rest is None else torch.cat((first, rest)))
            for first, rest in zip(references, further, strict=True)
        )
        return points.sigmoid()[None], sides.sigmoid()[None]

    def refine_points(self, layer: int, content: Tensor, points: Tensor, grid: Tensor) -> Tensor:
        """Move points inside their cells.

        Args:
            layer: whose head to use.
            content: (B, Q, D).
            points: (B or 1, Q, 2).
            grid: (1, Q, 2), the top left corners of the cells.

        Returns:
            (B, Q, 2).
        """
        update = full_precision(_head_of(self.point_heads, layer)(content))
        # The inverse sigmoid is taken of the offset in the image, not in the cell, as published.
        return grid + (update + inverse_sigmoid(points - grid, EPS)).sigmoid() / self.grid_size

    def refine_sides(self, layer: int, content: Tensor, sides: Tensor) -> Tensor:
        """Change sides (B or 1, Q, 4) by what layer's head makes of content (B, Q, D)."""
        update = full_precision(_head_of(self.sides_heads, layer)(content))
        return (update + inverse_sigmoid(sides, EPS)).sigmoid()

    def initial_content(self, level: FeatureMap, grid: Tensor) -> Tensor:
        """Return what the queries start with: (B, Q, D)."""
        if self.content_init is None:
            features = level.features
            return features.new_zeros(features.shape[0], grid.shape[1], self.embed_dim)
        batch = level.features.shape[0]
        points, mask = grid.expand(batch, -1, -1), None
        if self.padding_invariant and level.padding_mask is not None:
            fraction = level.extent(valid_only=True) / level.extent(valid_only=False)
            points, mask = grid * fraction[:, None], level.padding_mask
        content: Tensor = self.content_init(level.features, points, mask)
        return content

    def project_memory(self, level: FeatureMap) -> list[LayerMemory]:
        """Return the memory as every layer reads it, all of them projected at once."""
        attentions = [cast(SapDetrDecoderLayer, layer).cross_attn for layer in self.layers]
        content = linear_side_by_side(
            level.tokens, [x for a in attentions for x in (a.key_content, a.value)]
        )
        position = linear_side_by_side(level.token_position, [a.key_position for a in attentions])
        height, width = level.features.shape[-2:]
        extent = level.extent(self.padding_invariant)
        return [
            LayerMemory(keys, value, level.token_padding_mask, (height, width), extent)
            for keys, value in zip(
                zip(content[::2], position, strict=True), content[1::2], strict=True
            )
        ]

    def embed_position(
        self, points: Tensor, sides: Tensor, content: Tensor | None
    ) -> QueryPosition:
        """Embeds points (B, Q, 2) and sides (B, Q, 4).

        Args:
            points, sides: of the queries.
            content: (B, Q, D), what the sines are scaled by; None for no scaling.
        """
        point_sine = encode_points(points, self.embed_dim, self.temperature)
        corners = corners_from_sides(points, sides)
        sides_sine = encode_points(corners, self.embed_dim, self.temperature)
        point_embed, sides_embed = self.point_embed(point_sine), self.sides_embed(sides_sine)
        if content is not None and self.sine_scale is not None:
            scale = self.sine_scale(content)
            point_sine = point_sine * scale
            sides_sine = sides_sine * torch.cat((scale, scale), dim=-1)
        return QueryPosition(points, sides, point_embed, sides_embed, point_sine, sides_sine)


def group_shifts(num_groups: int) -> Tensor:
    """Return by how much of a cell the grid of each group is shifted, (K, 2) for x and y.

    A low-discrepancy sequence (Roberts' R2): the first is 0, and more groups change none of them.
    """
    steps = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
    shifts = torch.arange(num_groups)[:, None] * steps % 1
    return shifts.to(torch.get_default_dtype())


def _equal_heads(
    embed_dim: int, out_dim: int, num_heads: int, bias: float = 0.0, zero_weight: bool = False
) -> nn.ModuleList:
    head = MLP(embed_dim, embed_dim, out_dim, 3)
    last = cast(nn.Linear, head.layers[-1])
    nn.init.constant_(last.bias, bias)
    if zero_weight:
        nn.init.zeros_(last.weight)
    return nn.ModuleList(copy.deepcopy(head) for _ in range(num_heads))


def _head_of(heads: nn.ModuleList, layer: int) -> nn.Module:
    return heads[min(layer, len(heads) - 1)]
