"""The deformable transformer encoder: mixes the levels of a feature pyramid into memories."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from ..layers import DeformableAttention, xavier_init_matrices
from .encoder import PostNormEncoderLayer
from .structures import FeatureMap, Pyramid


class DeformableEncoderLayer(PostNormEncoderLayer):
    """Deformable self-attention and a feed-forward network, each followed by its normalisation.

    Args:
        embed_dim: width D of the tokens.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability; attention weights are not dropped.
        num_levels: feature levels L.
        num_points: points that a head reads on each level.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        num_levels: int,
        num_points: int,
    ) -> None:
        self_attn = DeformableAttention(embed_dim, num_heads, num_levels, num_points)
        super().__init__(self_attn, embed_dim, ffn_dim, dropout)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        reference_points: Tensor,
        sizes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D).

        Args:
            tokens: (B, N, D), those of all levels, N = sum of all H * W.
            position: (B or 1, N, D), added to queries but not to values.
            reference_points: (B or 1, N, L, 2), where the tokens are on each level, in cells.
            sizes: (H, W) of every level.
            padding_mask: (B, N) bool or None. Padding is read as 0, but padded tokens are computed
                like any others.
        """
        attended = self.self_attn(tokens + position, reference_points, tokens, sizes, padding_mask)
        return self.finish(tokens, attended)


class DeformableEncoder(nn.Module):
    """Deformable DETR's encoder over several levels, without a final normalisation.

    Args:
        num_layers: number of layers.
        embed_dim, num_heads, ffn_dim, dropout, num_levels, num_points: see
            :class:`DeformableEncoderLayer`.
    """

    def __init__(
        self,
        num_layers: int = 6,
        embed_dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
        num_levels: int = 3,
        num_points: int = 4,
    ) -> None:
        super().__init__()
        layer = DeformableEncoderLayer(
            embed_dim, num_heads, ffn_dim, dropout, num_levels, num_points
        )
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        xavier_init_matrices(self)
        for copied in self.layers:
            # The offsets start in another way.
            cast(DeformableAttention, copied.self_attn).reset_parameters()
        self.level_embed = nn.Parameter(torch.randn(num_levels, embed_dim))

    def forward(self, maps: Sequence[FeatureMap]) -> list[FeatureMap]:
        """Return the memories: the same levels, with mixed features.

        The embedding of the level has been added to their positions.

        Raises:
            ValueError: if there are not ``num_levels`` levels.
        """
        if len(maps) != len(self.level_embed):
            raise ValueError(
                f"this encoder takes num_levels={len(self.level_embed)} feature levels, "
                f"got {len(maps)}"
            )
        maps = [
            replace(level, position=level.position + embed[:, None, None])
            for level, embed in zip(maps, self.level_embed, strict=True)
        ]
        pyramid = Pyramid.of(maps)
        tokens, sizes = pyramid.tokens, pyramid.sizes
        reference_points = pyramid.centres[:, :, None] * pyramid.extents[:, None]
        for layer in self.layers:
            tokens = layer(tokens, pyramid.position, reference_points, sizes, pyramid.padding_mask)
        memories = tokens.split([height * width for height, width in sizes], dim=1)
        return [level.with_tokens(x) for level, x in zip(maps, memories, strict=True)]
