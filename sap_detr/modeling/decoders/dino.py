"""DINO's decoder: two stages, deformable attention, contrastive denoising, look forward twice.

"DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection" (Zhang et al.,
ICLR 2023). Where paper and published code differ, this is the code.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...layers import (
    MLP,
    DeformableAttention,
    Linear,
    MultiheadAttention,
    encode_points,
    exporting,
    full_precision,
    linear_side_by_side,
    xavier_init_matrices,
)
from ..denoising import DenoisingQueries
from ..references import BoxReference, Reference
from ..structures import FeatureMap, Predictions, Pyramid
from .layer import RARE, PostNormDecoderLayer, split_gaussian

# Logit of the classes of what is not to be scored: probability and focal loss are exactly 0.
NEVER = -1e4


class TooFewCellsError(UserError, ValueError):
    """Images have fewer cells, on all levels, than the decoder has queries."""


class DeformableDecoderLayer(PostNormDecoderLayer):
    """Self-attention of the queries, deformable attention to the memory, feed-forward network.

    Args:
        embed_dim: width D of queries and memory.
        num_heads: attention heads M.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability.
        num_levels: feature levels L.
        num_points: points P that a head reads on each level.
        gaussian: let a head prefer points near a place that it predicts.
    """

    self_attn: MultiheadAttention
    cross_attn: DeformableAttention

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        num_levels: int,
        num_points: int,
        gaussian: bool = False,
    ) -> None:
        self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        cross_attn = DeformableAttention(embed_dim, num_heads, num_levels, num_points)
        super().__init__(self_attn, cross_attn, embed_dim, ffn_dim, dropout)
        self.gaussian_head = MLP(embed_dim, embed_dim, 4 * num_heads, 3) if gaussian else None

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        points: Tensor,
        sides: Tensor,
        value: Tensor,
        sizes: Sequence[tuple[int, int]],
        allowed: Tensor | None,
    ) -> Tensor:
        """Map content (B, Q, D) to (B, Q, D).

        Args:
            content: (B, Q, D).
            position: (B, Q, D), added to the queries of both attentions and the keys of the first.
            points: (B, Q, L, 2), in cells of each level.
            sides: (B, Q, L, 4), in cells of each level.
            value: (B, N, D), see :meth:`DeformableAttention.read`.
            sizes: (H, W) of every level.
            allowed: (1 or B, 1, Q, Q) bool, which query sees which; None for all.
        """
        content = self.attend_to_queries(content, position, allowed)
        locations, weights = self.samples(content, position, points, sides)
        return self.finish(content, self.cross_attn.read(value, sizes, locations, weights))

    def attend_to_queries(
        self, content: Tensor, position: Tensor, allowed: Tensor | None
    ) -> Tensor:
        """Run the self-attention; see :meth:`forward`."""
        query = content + position
        attended = self.self_attn(query, query, content, allowed=allowed)
        return self.add_self_attention(content, attended)

    def samples(
        self, content: Tensor, position: Tensor, points: Tensor, sides: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return where queries with this content read the memory, and what that weighs.

        See :meth:`DeformableAttention.samples`.
        """
        gaussian = None
        if self.gaussian_head is not None:
            offset, sharpness = split_gaussian(
                self.gaussian_head(content), self.cross_attn.num_heads
            )
            gaussian = offset.tanh(), sharpness
        return self.cross_attn.samples(content + position, points, sides, gaussian)


class DinoDecoder(nn.Module):
    """DINO's first stage and decoder with their heads.

    The first stage scores every token of the memory; the best ones' boxes are where the queries
    start. Each layer refines the references of the queries; the box that a layer is scored by
    starts from the layer before with its graph, so that it trains that one as well.

    Args:
        num_classes: number of object classes C.
        num_queries: Q, the tokens that are taken.
        num_layers: number of layers L.
        embed_dim: width D of queries and memory.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward networks.
        dropout: dropout probability.
        num_levels: feature levels.
        num_points: points that a head reads on each level.
        temperature: of the sine encoding of the references.
        content: what queries start with: "learnt", a vector for each rank of the first stage, or
            "memory", what the first stage read of their token.
        side_directed: an offset of P leads to the side of the box in its direction; else to half
            the width or the height from the point. The same for boxes around their point.
        look_forward_twice: train each layer by the box of the next one, too.
        gaussian: let the heads of the deformable attention prefer a place, as SAP-DETR's do.
        objectness: predict the logit of being an object at all, in both stages.
        mask_empty_slots: keep empty denoising slots out of all attention and losses.
        padding_invariant: encode references as fractions of the image. If False, as published, of
            the padded map of level 0, so that predictions depend on how much an image is padded.
        reference: what a query's reference is.

    Raises:
        ValueError: if ``content`` is neither.
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int = 900,
        num_layers: int = 6,
        embed_dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.0,
        num_levels: int = 4,
        num_points: int = 4,
        temperature: float = 10000.0,
        content: str = "learnt",
        side_directed: bool = True,
        look_forward_twice: bool = True,
        gaussian: bool = False,
        objectness: bool = False,
        mask_empty_slots: bool = False,
        padding_invariant: bool = False,
        reference: type[Reference] = BoxReference,
    ) -> None:
        super().__init__()
        if content not in ("learnt", "memory"):
            raise ValueError(f"content must be 'learnt' or 'memory', got {content!r}")
        self.num_queries = num_queries
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.side_directed = side_directed
        self.look_forward_twice = look_forward_twice
        self.mask_empty_slots = mask_empty_slots
        self.padding_invariant = padding_invariant
        self.reference = reference

        layer = DeformableDecoderLayer(
            embed_dim, num_heads, ffn_dim, dropout, num_levels, num_points, gaussian
        )
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.position_head = MLP(
            embed_dim // 2 * reference.num_coordinates, embed_dim, embed_dim, 2
        )
        self.memory_proj = Linear(embed_dim, embed_dim)
        self.memory_norm = nn.LayerNorm(embed_dim)
        self.content_embed = nn.Embedding(num_queries, embed_dim) if content == "learnt" else None
        self.norm = nn.LayerNorm(embed_dim)
        xavier_init_matrices(self)
        for copied in self.layers:
            # The offsets start in another way.
            cast(DeformableDecoderLayer, copied).cross_attn.reset_parameters()
        # The published one has a row too many, which is never used.
        self.label_embed = nn.Embedding(num_classes + 1, embed_dim)

        self.class_head = Linear(embed_dim, num_classes)
        nn.init.constant_(self.class_head.bias, RARE)
        self.box_head = MLP(embed_dim, embed_dim, reference.num_outputs, 3)
        last = cast(Linear, self.box_head.layers[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.proposal_class_head = copy.deepcopy(self.class_head)
        self.proposal_box_head = copy.deepcopy(self.box_head)
        self.object_head = Linear(embed_dim, 1) if objectness else None
        if self.object_head is not None:
            nn.init.constant_(self.object_head.bias, RARE)
        self.proposal_object_head = copy.deepcopy(self.object_head)

    def forward(
        self,
        memory: Sequence[FeatureMap],
        denoising: DenoisingQueries | None = None,
        all_layers: bool = True,
    ) -> Predictions:
        """Decode one batch.

        Args:
            memory: all levels, as the encoder returns them.
            denoising: further queries, for training; or None.
            all_layers: False computes the class and box heads of the last layer only, all that
                inference needs, and neither objectness nor proposals.

        Returns:
            Predictions of all layers, or of the last one with L = 1.

        Raises:
            ValueError: if the memory has fewer tokens than there are queries.
        """
        pyramid = Pyramid.of(memory)
        proposals, reference, content = self.propose(pyramid, all_layers)
        allowed = None
        if denoising is not None:
            noised = self.reference.of_denoising(denoising, pyramid)
            reference = self.reference.combine([noised, reference], lambda x: torch.cat(x, dim=1))
            embedded = self.label_embed(denoising.labels.clamp(min=0))
            embedded = embedded.masked_fill(denoising.empty[..., None], 0)
            content = torch.cat((embedded.to(content.dtype), content), dim=1)
            allowed = denoising.allowed(self.num_queries, self.mask_empty_slots)
        contents, references = self.run_layers(content, reference, pyramid, allowed)
        first = 0 if all_layers else len(self.layers) - 1
        hidden = self.norm(torch.stack(contents[first:]))
        reference = self.reference.combine(references[first:], torch.stack)
        refined = reference.refine(full_precision(self.box_head(hidden)))
        objectness = self.object_head if all_layers else None
        predictions = Predictions(
            logits=full_precision(self.class_head(hidden)),
            boxes=refined.boxes,
            points=refined.points if self.reference.salient else None,
            objectness=None if objectness is None else full_precision(objectness(hidden)),
        )
        if denoising is None:
            return replace(predictions, proposals=proposals)
        slots = denoising.labels.shape[1]
        denoised = predictions.slice_queries(0, slots)
        if self.mask_empty_slots:
            logits = denoised.logits.masked_fill(denoising.empty[..., None], NEVER)
            denoised = replace(denoised, logits=logits)
        repeats = max(denoising.groups, 1)
        return replace(
            predictions.slice_queries(slots),
            proposals=proposals,
            denoising=replace(denoised, matches=denoising.matches, repeats=repeats),
        )

    def propose(
        self, pyramid: Pyramid, with_predictions: bool = True
    ) -> tuple[Predictions | None, Reference, Tensor]:
        """Run the first stage.

        Args:
            pyramid: the memory.
            with_predictions: whether the proposals' predictions are wanted.

        Returns:
            The predictions of the proposals (L = 1), the references (B, Q, n) that queries start
            from, without gradient, and their content (B, Q, D).

        Raises:
            TooFewCellsError: the images are so small that there are fewer cells than queries.
        """
        batch, num_tokens = pyramid.tokens.shape[:2]
        # An exported graph is for any number, and its top-k fails by itself.
        if not exporting() and num_tokens < self.num_queries:
            raise TooFewCellsError(
                f"the images have {num_tokens} cells on all levels, fewer than the decoder's "
                f"num_queries={self.num_queries}; give larger images or set "
                f"model.decoder.num_queries to {num_tokens} or less"
            )
        priors, proposed = self.reference.priors(pyramid)
        tokens = pyramid.tokens.masked_fill(~proposed[..., None], 0)
        tokens = self.memory_norm(self.memory_proj(tokens))
        logits = full_precision(self.proposal_class_head(tokens))
        rank = self.reference.rank(logits.detach().amax(-1), pyramid)
        index = rank.topk(self.num_queries).indices

        def take(x: Tensor) -> Tensor:
            at = index[..., None].expand(-1, -1, x.shape[-1])
            return x.expand(batch, -1, -1).gather(1, at)

        tokens = take(tokens)
        chosen = priors.map(take)
        refined = chosen.refine(full_precision(self.proposal_box_head(tokens)))
        refined = refined.where_proposed(take(proposed[..., None])[..., 0])
        content = tokens.detach()
        if self.content_embed is not None:
            content = self.content_embed.weight.expand(batch, -1, -1)
        predictions = None
        if with_predictions:
            objectness = self.proposal_object_head
            predictions = Predictions(
                logits=take(logits)[None],
                boxes=refined.boxes[None],
                points=refined.points[None] if self.reference.salient else None,
                objectness=None if objectness is None else full_precision(objectness(tokens))[None],
                tokens=index,
            )
        return predictions, refined.detach(), content

    def run_layers(
        self, content: Tensor, reference: Reference, pyramid: Pyramid, allowed: Tensor | None
    ) -> tuple[list[Tensor], list[Reference]]:
        """Run all layers.

        Args:
            content: (B, Q, D), what queries start with.
            reference: (B, Q, n), where they start.
            pyramid: the memory.
            allowed: see :meth:`DeformableDecoderLayer.forward`.

        Returns:
            The content that every layer returned, (B, Q, D), and the reference that its box is
            predicted from.
        """
        values = linear_side_by_side(
            pyramid.tokens,
            [cast(DeformableDecoderLayer, layer).cross_attn.value_proj for layer in self.layers],
        )
        if pyramid.padding_mask is not None:
            padding = pyramid.padding_mask[..., None]
            values = tuple(value.masked_fill(padding, 0) for value in values)
        extents = pyramid.extents[:, None]
        contents, references = [], []
        of_head = reference
        for index, layer in enumerate(self.layers):
            if index > 0:
                refined = reference.refine(full_precision(self.box_head(content)))
                reference = refined.detach()
                of_head = refined if self.look_forward_twice else reference
            sides = reference.sides
            if not self.side_directed:
                half = (sides[..., :2] + sides[..., 2:]) / 2
                sides = torch.cat((half, half), dim=-1)
            content = layer(
                content,
                self.embed_position(reference, pyramid),
                reference.points[:, :, None] * extents,
                sides[:, :, None] * torch.cat((extents, extents), dim=-1),
                values[index],
                pyramid.sizes,
                allowed,
            )
            contents.append(content)
            references.append(of_head)
        return contents, references

    def embed_position(self, reference: Reference, pyramid: Pyramid) -> Tensor:
        """Embed where queries are: (B, Q, D)."""
        coordinates = reference.coordinates
        if not self.padding_invariant and pyramid.padding_mask is not None:
            height, width = pyramid.sizes[0]
            x, y = pyramid.extents[:, :1].unbind(-1)
            x, y = x / width, y / height
            # y comes first, and width before height.
            pairs = coordinates.shape[-1] // 2
            ratio = torch.stack((y, x, *(x, y) * (pairs - 1)), dim=-1)
            coordinates = coordinates * ratio
        encoded = encode_points(coordinates, self.embed_dim, self.temperature)
        result: Tensor = self.position_head(encoded.to(pyramid.tokens.dtype))
        return result
