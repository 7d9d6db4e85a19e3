"""SAM-DETR's decoder: reference boxes, aligned queries, and the heads.

"Accelerating DETR Convergence via Semantic-Aligned Matching" (Zhang et al., CVPR 2022). Where paper
and published code differ, this is the code.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sap_detr.layers import (
    MLP,
    Linear,
    PositionedSelfAttention,
    encode_points,
    full_precision,
    linear_side_by_side,
    xavier_init_matrices,
)
from sap_detr.modeling import (
    Comparison,
    FeatureMap,
    LayerMemory,
    MemoryAttention,
    PostNormDecoderLayer,
    Predictions,
    inverse_sigmoid,
)

from .aligner import AlignedQueries, SemanticsAligner


class AlignedCrossAttention(MemoryAttention):
    """Cross-attention whose heads have queries of full width and a key in common.

    Args:
        embed_dim: width D.
        num_heads: attention heads M.
        dropout: probability of dropping an attention weight.
        gaussian_form: see :func:`sap_detr.layers.gaussian_attention`.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float, gaussian_form: str = "bias"
    ) -> None:
        super().__init__(num_heads, dropout, gaussian_form)
        self.query_content = Linear(embed_dim, embed_dim)
        self.query_position = MLP(embed_dim, embed_dim, embed_dim, 2)
        self.key_content = Linear(embed_dim, embed_dim)
        self.key_position = MLP(embed_dim, embed_dim, embed_dim, 2)
        self.value = Linear(embed_dim, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)
        nn.init.zeros_(self.out_proj.bias)

    def compare(self, queries: AlignedQueries, memory: LayerMemory) -> Comparison:
        """Return queries, and the keys to compare them with."""
        query = self.query_content(queries.content) + self.query_position(queries.position)
        points, gaussian = queries.points.transpose(1, 2), None
        if queries.sharpness is not None:
            gaussian = points, queries.sharpness.transpose(1, 2)
        (key,) = memory.keys
        return Comparison(query.transpose(1, 2), key[:, None], memory, gaussian, points=points)


class SamDetrDecoderLayer(PostNormDecoderLayer):
    """Self-attention, alignment with the memory, cross-attention, feed-forward network.

    Args:
        embed_dim: width D of queries and memory.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability everywhere.
        temperature: of the sine encodings of points.
        gaussian: add a Gaussian around the salient points to the cross-attention (SMCA).
        gaussian_form: see :func:`sap_detr.layers.gaussian_attention`.
    """

    cross_attn: AlignedCrossAttention

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        temperature: float,
        gaussian: bool = False,
        gaussian_form: str = "bias",
    ) -> None:
        self_attn = PositionedSelfAttention(embed_dim, num_heads, dropout)
        cross_attn = AlignedCrossAttention(embed_dim, num_heads, dropout, gaussian_form)
        super().__init__(self_attn, cross_attn, embed_dim, ffn_dim, dropout)
        self.aligner = SemanticsAligner(embed_dim, num_heads, temperature, gaussian)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        boxes: Tensor,
        tokens: Tensor,
        memory: LayerMemory,
    ) -> Tensor:
        """Map content (B, Q, D) to (B, Q, D).

        Args:
            content: (B, Q, D), what the queries have read so far.
            position: (B or 1, Q, D), sine encoding of the centres of the boxes.
            boxes: (B or 1, Q, 4), the reference boxes, cxcywh as fractions of the unpadded image.
            tokens: (B, N, D), the memory.
            memory: the same, projected by this layer's cross-attention.
        """
        content = self.add_self_attention(content, self.self_attn(content, position))
        queries = self.aligner(content, boxes, tokens, memory.size, memory.extent)
        return self.finish(content, self.cross_attn(queries, memory))


class SamDetrDecoder(nn.Module):
    """SAM-DETR's decoder with its heads.

    Every query has a reference box, which each layer refines. A layer looks for salient points in
    the memory within the box and takes what it finds there as its query.

    Args:
        num_classes: number of object classes C.
        num_queries: number of queries Q.
        layer_levels: for each layer, which level of the memory it reads; its length is the number
            of layers L. The published multi-scale models go from the coarsest to the finest.
        embed_dim: width D of queries and memory.
        num_heads: attention heads, and salient points of a query.
        ffn_dim: hidden width of the feed-forward networks.
        dropout: dropout probability.
        temperature: of the sine encodings of points.
        gaussian: add a Gaussian around the salient points to the cross-attention (SMCA).
        gaussian_form: "bias" or "folded"; equal, see :func:`sap_detr.layers.gaussian_attention`.

    Raises:
        ValueError: if there is no layer, or a level below 0.
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int = 300,
        layer_levels: Sequence[int] = (0, 0, 0, 0, 0, 0),
        embed_dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        temperature: float = 10000.0,
        gaussian: bool = False,
        gaussian_form: str = "bias",
    ) -> None:
        super().__init__()
        if not layer_levels or min(layer_levels) < 0:
            raise ValueError(
                f"layer_levels must name the level of each layer, 0 or above, got {layer_levels!r}"
            )
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.layer_levels = list(layer_levels)
        layer = SamDetrDecoderLayer(
            embed_dim, num_heads, ffn_dim, dropout, temperature, gaussian, gaussian_form
        )
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in self.layer_levels)
        # Not only linear layers: the convolution and the zeros of the points' last layer too.
        xavier_init_matrices(self)
        self.reference_boxes = nn.Parameter(torch.randn(num_queries, 4))
        class_head, box_head = Linear(embed_dim, num_classes), MLP(embed_dim, embed_dim, 4, 3)
        nn.init.constant_(class_head.bias, -math.log(99))  # the logit of 1 %
        nn.init.zeros_(cast(nn.Linear, box_head.layers[-1]).weight)
        nn.init.zeros_(cast(nn.Linear, box_head.layers[-1]).bias)
        self.class_heads = nn.ModuleList(copy.deepcopy(class_head) for _ in self.layers)
        self.box_heads = nn.ModuleList(copy.deepcopy(box_head) for _ in self.layers)

    def forward(self, memory: Sequence[FeatureMap], all_layers: bool = True) -> Predictions:
        """Decode one batch.

        Args:
            memory: the levels, as the encoder returns them.
            all_layers: False computes the class head of the last layer only.

        Returns:
            Predictions of all layers, or of the last one with L = 1.

        Raises:
            ValueError: if ``layer_levels`` names a level that there is not.
        """
        layer_memories = self.project_memory(memory)
        # Logits of the reference boxes, never clipped; the heads start from clipped ones.
        reference = full_precision(self.reference_boxes)[None]
        boxes = reference.sigmoid()
        content = self.reference_boxes.new_zeros(1, boxes.shape[1], self.embed_dim)
        content = content.expand(memory[0].features.shape[0], -1, -1)
        contents, predicted = [], []
        tokens = [level.tokens for level in memory]
        for layer, box_head, layer_memory, level in zip(
            self.layers, self.box_heads, layer_memories, self.layer_levels, strict=True
        ):
            # Without gradient, as published: points learn through what is sampled there.
            centre = boxes[..., :2].detach().flip(-1)
            position = encode_points(centre, self.embed_dim, self.temperature)
            content = layer(content, position, boxes, tokens[level], layer_memory)
            update = full_precision(box_head(content))
            contents.append(content)
            predicted.append((inverse_sigmoid(boxes) + update).sigmoid())
            reference = (reference + update).detach()
            boxes = reference.sigmoid()
        first = 0 if all_layers else len(self.layers) - 1
        logits = [
            head(x) for head, x in zip(self.class_heads[first:], contents[first:], strict=True)
        ]
        return Predictions(
            logits=full_precision(torch.stack(logits)), boxes=torch.stack(predicted[first:])
        )

    def project_memory(self, memory: Sequence[FeatureMap]) -> list[LayerMemory]:
        """Return the memory as every layer reads it; layers of one level share their products.

        Raises:
            ValueError: if ``layer_levels`` names a level that there is not.
        """
        if max(self.layer_levels) >= len(memory):
            raise ValueError(
                f"layer_levels {self.layer_levels} needs {max(self.layer_levels) + 1} feature "
                f"levels, got {len(memory)}"
            )
        projected: dict[int, LayerMemory] = {}
        for level_index, level in enumerate(memory):
            readers = [i for i, read in enumerate(self.layer_levels) if read == level_index]
            if not readers:
                continue
            layers = [cast(SamDetrDecoderLayer, self.layers[i]).cross_attn for i in readers]
            content = linear_side_by_side(
                level.tokens, [x for a in layers for x in (a.key_content, a.value)]
            )
            height, width = level.features.shape[-2:]
            extent = level.extent(valid_only=True)
            for number, (index, cross_attn) in enumerate(zip(readers, layers, strict=True)):
                projected[index] = LayerMemory(
                    keys=(content[2 * number] + cross_attn.key_position(level.token_position),),
                    value=content[2 * number + 1],
                    padding_mask=level.token_padding_mask,
                    size=(height, width),
                    extent=extent,
                )
        return [projected[index] for index in range(len(self.layers))]
