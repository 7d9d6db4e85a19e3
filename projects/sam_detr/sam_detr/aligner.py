"""The semantics aligner: replaces queries by samples of the memory that they will be compared with.

"Accelerating DETR Convergence via Semantic-Aligned Matching" (Zhang et al., CVPR 2022), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sap_detr.layers import encode_points, full_precision, interpolation_weights, roi_align

# Bins per axis of a region, and channels that its salient points are searched in.
NUM_BINS = 7
POINT_DIM = 64


def points_before_pooling(num_tokens: int, num_queries: int, embed_dim: int) -> bool:
    """Whether to convolve the memory before it is averaged over bins, which is cheaper if small.

    The 1x1 convolution commutes with averaging, but for its bias. Before it, all cells are
    convolved, and 64 more channels are averaged; after it, all bins.
    """
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
        points = nn.Linear(hidden, (4 if gaussian else 2) * num_heads)
        nn.init.zeros_(points.bias)
        self.point_mlp = nn.ModuleList(
            [
                nn.Linear(POINT_DIM * NUM_BINS**2, embed_dim),
                nn.Linear(embed_dim, hidden),
                nn.Linear(hidden, hidden),
                points,
            ]
        )
        self.content_scale = nn.Linear(embed_dim, num_heads * embed_dim)
        self.position_scale = nn.Linear(embed_dim, num_heads * embed_dim)

    def forward(
        self, content: Tensor, boxes: Tensor, memory: Tensor, size: tuple[int, int], extent: Tensor
    ) -> AlignedQueries:
        """Makes the queries of the cross-attention.

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
        bins, point_bins = self._pool(memory, size, regions)
        direction, sharpness = self._find_points(point_bins)
        points = centre[:, :, None] + side[:, :, None] / 2 * direction
        # As published, points learn from what is sampled (and the Gaussian), not from their sine.
        sine = encode_points(points.detach().flip(-1), self.embed_dim, self.temperature)
        heads = (self.num_heads, -1)
        sampled = self._sample(bins, direction)
        return AlignedQueries(
            content=sampled * self.content_scale(content).sigmoid().unflatten(-1, heads),
            position=sine * self.position_scale(content).sigmoid().unflatten(-1, heads),
            points=points,
            sharpness=sharpness,
        )

    def _pool(
        self, memory: Tensor, size: tuple[int, int], regions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The memory in the bins of the regions, and what salient points are searched in.

        Returns:
            (B, Q, 7, 7, D) and (B, Q, 7, 7, 64).
        """
        weight, bias = self.point_conv.weight[:, :, 0, 0], self.point_conv.bias
        if points_before_pooling(memory.shape[1], regions.shape[1], self.embed_dim):
            both = torch.cat((memory, F.linear(memory, weight)), dim=-1)
            pooled = roi_align(both, size, regions, NUM_BINS)
            features, projected = pooled.split((self.embed_dim, POINT_DIM), dim=-1)
            return features, F.relu(projected + bias)
        features = roi_align(memory, size, regions, NUM_BINS)
        return features, F.relu(F.linear(features, weight, bias))

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

    def _sample(self, bins: Tensor, direction: Tensor) -> Tensor:
        """Bilinear samples of regions, with zeros around them.

        Args:
            bins: (B, Q, 7, 7, D).
            direction: (B, Q, M, 2), (x, y) with -1 and 1 the outer edges of the region.

        Returns:
            (B, Q, M, D).
        """
        x, y = interpolation_weights(((direction + 1) * NUM_BINS - 1) / 2, NUM_BINS).unbind(-2)
        weights = (y[..., :, None] * x[..., None, :]).flatten(-2)
        return weights.to(bins.dtype) @ bins.flatten(2, 3)
