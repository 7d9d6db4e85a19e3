"""The semantics aligner: replaces queries by samples of the memory that they will be compared with.

"Accelerating DETR Convergence via Semantic-Aligned Matching" (Zhang et al., CVPR 2022), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sap_detr.layers import (
    Linear,
    encode_points,
    exporting,
    full_precision,
    linear,
    point_weights,
    roi_align,
    sample_regions,
)

# Bins per axis of a region, and channels that its salient points are searched in.
NUM_BINS = 7
POINT_DIM = 64


def without_pooling(num_tokens: int, num_queries: int, embed_dim: int) -> bool:
    """Whether the memory is so small that it is cheaper to sample it than to pool it in all bins.

    The 1x1 convolution that points are found with commutes with pooling, but for its bias. Before
    it, all cells are convolved, and only its 64 channels are pooled; after it, all bins. An
    exported graph, which is for any number of tokens, always samples.
    """
    if exporting():
        return True
    before = num_tokens * (embed_dim + NUM_BINS * num_queries)
    return before < num_queries * NUM_BINS**2 * embed_dim


@dataclass(frozen=True)
class AlignedQueries:
    """What the cross-attention compares with the memory: one query for every head.

    Attributes:
        content: (B, Q, M, D), the memory at the salient points, scaled by the query.
        position: (B, Q, M, D), sine encodings of the salient points, scaled by the query.
        points: (B, Q, M, 2), the salient points, (x, y) as fractions of the unpadded image.
        sharpness: (B, Q, M, 2) of the Gaussian around them, for x and y; None without a Gaussian.
    """

    content: Tensor
    position: Tensor
    points: Tensor
    sharpness: Tensor | None


class SemanticsAligner(nn.Module):
    """Finds a salient point per head in the region of every query and samples the memory there.

    Args:
        embed_dim: width D.
        num_heads: heads M, each with a point.
        temperature: of the sine encoding of the points.
        gaussian: predict the sharpness of a Gaussian around every point too (SMCA).
    """

    def __init__(
        self, embed_dim: int, num_heads: int, temperature: float, gaussian: bool = False
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.temperature = temperature
        self.gaussian = gaussian
        self.point_conv = nn.Conv2d(embed_dim, POINT_DIM, 1)
        hidden = 2 * embed_dim
        points = Linear(hidden, (4 if gaussian else 2) * num_heads)
        nn.init.zeros_(points.bias)
        self.point_mlp = nn.ModuleList(
            [
                Linear(POINT_DIM * NUM_BINS**2, embed_dim),
                Linear(embed_dim, hidden),
                Linear(hidden, hidden),
                points,
            ]
        )
        self.content_scale = Linear(embed_dim, num_heads * embed_dim)
        self.position_scale = Linear(embed_dim, num_heads * embed_dim)

    def forward(
        self, content: Tensor, boxes: Tensor, memory: Tensor, size: tuple[int, int], extent: Tensor
    ) -> AlignedQueries:
        """Make the queries of the cross-attention.

        Args:
            content: (B, Q, D), what the queries have read so far.
            boxes: (B or 1, Q, 4), cxcywh as fractions of the unpadded image. No gradient flows to
                them through what is sampled, but it does through ``points``.
            memory: (B, N, D).
            size: (H, W) of the map that the memory is, N = H * W.
            extent: (B or 1, 2), width and height in cells of the part of it that is no padding.
        """
        centre, side = full_precision(boxes).split(2, dim=-1)
        regions = torch.cat((centre - side / 2, centre + side / 2), dim=-1)
        regions = regions.expand(content.shape[0], -1, -1) * extent.repeat(1, 2)[:, None]
        direction, sharpness, sampled = self._align(memory, size, regions)
        points = centre[:, :, None] + side[:, :, None] / 2 * direction
        # As published, points learn from what is sampled (and the Gaussian), not from their sine.
        sine = encode_points(points.detach().flip(-1), self.embed_dim, self.temperature)
        heads = (self.num_heads, -1)
        return AlignedQueries(
            content=sampled * self.content_scale(content).sigmoid().unflatten(-1, heads),
            position=sine * self.position_scale(content).sigmoid().unflatten(-1, heads),
            points=points,
            sharpness=sharpness,
        )

    def _align(
        self, memory: Tensor, size: tuple[int, int], regions: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Salient points and sharpness (see below), and the memory there, (B, Q, M, D)."""
        weight, bias = self.point_conv.weight[:, :, 0, 0], cast(Tensor, self.point_conv.bias)
        if without_pooling(memory.shape[1], regions.shape[1], self.embed_dim):
            projected = roi_align(linear(memory, weight), size, regions, NUM_BINS)
            direction, sharpness = self._find_points(F.relu(projected + bias))
            sampled = sample_regions(memory, size, regions, direction, NUM_BINS)
            return direction, sharpness, sampled
        bins = roi_align(memory, size, regions, NUM_BINS)
        direction, sharpness = self._find_points(F.relu(linear(bins, weight, bias)))
        x, y = point_weights(direction, NUM_BINS)
        weights = (y[..., :, None] * x[..., None, :]).flatten(-2)
        return direction, sharpness, weights.to(bins.dtype) @ bins.flatten(2, 3)

    def _find_points(self, point_bins: Tensor) -> tuple[Tensor, Tensor | None]:
        """Points (B, Q, M, 2) in -1 .. 1 of their regions, and sharpness (B, Q, M, 2) or None."""
        # Channels first, as the published weights have it.
        x = point_bins.flatten(2, 3).transpose(2, 3).flatten(2)
        for layer in self.point_mlp[:-1]:
            x = F.relu(layer(x))
        x = full_precision(self.point_mlp[-1](x))
        if not self.gaussian:
            return x.unflatten(-1, (self.num_heads, 2)).tanh(), None
        direction, sharpness = x.unflatten(-1, (2, self.num_heads, 2)).unbind(2)
        return direction.tanh(), sharpness
