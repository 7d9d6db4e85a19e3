"""RoIAlign as matrix products, and the linear interpolation it is made of.

The samples of a region form a grid, and bilinear weights are products of a weight for y and one
for x. So RoIAlign is ``W_y F W_x^T`` for every region and channel, with one row of weights per bin.
This is exact, has no scatter in its gradient (the same result in every run), and costs the same
whatever the size of the regions: less than sampling where they are large, as untrained boxes are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align as sampled_roi_align

from .cpu import exporting
from .precision import full_precision

# Queries are taken in portions whose intermediate result has about this many numbers.
PORTION = 4_000_000


def interpolation_weights(position: Tensor, length: int) -> Tensor:
    """Weights of ``length`` values at 0, 1, 2, ... that interpolate them linearly.

    Values outside of the range count as 0. The derivative at a whole number is the right-hand one,
    as in :func:`torch.nn.functional.grid_sample`.

    Args:
        position: (...).
        length: number of values.

    Returns:
        (..., length), with at most two numbers in a row that are not 0.
    """
    cells = torch.arange(length, dtype=position.dtype, device=position.device)
    low = position.detach().floor()
    fraction = position - low
    distance = cells - low[..., None]
    return (distance == 0) * (1 - fraction[..., None]) + (distance == 1) * fraction[..., None]


def bin_weights(start: Tensor, end: Tensor, length: int, num_bins: int) -> Tensor:
    """RoIAlign along one axis: how much every cell adds to the mean of every bin.

    A bin is sampled ``ceil(size / num_bins)`` times, with ``size`` that of the whole region.
    Samples up to one cell outside of the map count as those on its edge, others as 0.

    Args:
        start, end: (...), of the regions, in cells; the middle of the first cell is at 0.5.
        length: number of cells.
        num_bins: number of bins.

    Returns:
        (..., num_bins, length).
    """
    start = start - 0.5
    size = (end - 0.5) - start
    bin_size = size / num_bins
    count = bin_size.ceil()
    most = length // num_bins + 2
    sample = torch.arange(most, dtype=start.dtype, device=start.device)
    bins = torch.arange(num_bins, dtype=start.dtype, device=start.device)
    within = (sample + 0.5) / count.clamp(min=1)[..., None]
    position = (
        start[..., None, None] + (bins[:, None] + within[..., None, :]) * bin_size[..., None, None]
    )
    used = (sample < count[..., None])[..., None, :] & (position >= -1) & (position <= length)
    share = used / count.clamp(min=1)[..., None, None]
    weights = interpolation_weights(position.clamp(0, length - 1), length)
    return (share[..., None, :] @ weights)[..., 0, :]


def region_weights(size: tuple[int, int], boxes: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Return the weights of RoIAlign along both axes, see :func:`bin_weights`.

    Args:
        size: (H, W) of the map.
        boxes: (B, Q, 4), XYXY in cells.
        num_bins: bins per axis, K.

    Returns:
        (B, Q, K, W) for x and (B, Q, K, H) for y, without gradient to the boxes.
    """
    height, width = size
    left, top, right, bottom = full_precision(boxes.detach()).unbind(-1)
    return bin_weights(left, right, width, num_bins), bin_weights(top, bottom, height, num_bins)


def sample_regions(
    tokens: Tensor, size: tuple[int, int], boxes: Tensor, points: Tensor, num_bins: int
) -> Tensor:
    """Bilinear samples of regions after :func:`roi_align`, which is not computed.

    A sample is a weighted sum of bins, hence of cells; both steps are products of a weight for x
    and one for y. Cheaper than all bins where the map is small and there are few samples.

    Args:
        tokens: (B, N, C), the features row by row.
        size: (H, W) of the map.
        boxes: (B, Q, 4), XYXY in cells; there is no gradient to them.
        points: (B, Q, M, 2), (x, y) in -1 .. 1, the outer edges of the region; beyond the outer
            bins there are zeros.
        num_bins: bins per axis.

    Returns:
        (B, Q, M, C).
    """
    x, y = point_weights(points, num_bins)
    of_x, of_y = region_weights(size, boxes, num_bins)
    weights = ((y @ of_y)[..., :, None] * (x @ of_x)[..., None, :]).flatten(-2)
    sampled = weights.to(tokens.dtype).flatten(1, 2) @ tokens
    result: Tensor = sampled.unflatten(1, points.shape[1:3])
    return result


def point_weights(points: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Bilinear weights of the bins of a region, for x and for y: (B, Q, M, K) each.

    Args:
        points: (B, Q, M, 2), (x, y) in -1 .. 1, the outer edges of the region.
        num_bins: bins per axis, K.
    """
    x, y = interpolation_weights(((points + 1) * num_bins - 1) / 2, num_bins).unbind(-2)
    return x, y


def roi_align(
    tokens: Tensor, size: tuple[int, int], boxes: Tensor, num_bins: int, form: str | None = None
) -> Tensor:
    """Means over the bins of regions of feature maps (RoIAlign, He et al., ICCV 2017).

    Equal to torchvision's ``roi_align(aligned=True, sampling_ratio=-1)``. There is no gradient to
    the boxes.

    Args:
        tokens: (B, N, C), the features row by row.
        size: (H, W) of the map.
        boxes: (B, Q, 4), XYXY in cells; not clipped to the map, but not larger than it.
        num_bins: bins per axis, K.
        form: "product" as described above, or "sampled" for torchvision's operator; by default
            the former on the CPU, where the latter runs on a single core, and the latter elsewhere.

    Returns:
        (B, Q, K, K, C), bins row by row.
    """
    boxes = full_precision(boxes.detach())
    if form == "sampled" or (form is None and tokens.is_cuda):
        return _sampled(tokens, size, boxes, num_bins)
    height, _ = size
    batch, queries = boxes.shape[:2]
    channels = tokens.shape[-1]
    x_weights, y_weights = (w.to(tokens.dtype) for w in region_weights(size, boxes, num_bins))
    rows = tokens.unflatten(1, size)
    if exporting():
        portion = queries
    else:
        portion = max(PORTION // (batch * height * num_bins * channels), 1)
    parts = []
    for first in range(0, queries, portion):
        of_x, of_y = x_weights[:, first : first + portion], y_weights[:, first : first + portion]
        strips = of_x.flatten(1, 2)[:, None] @ rows
        strips = strips.unflatten(2, (-1, num_bins)).transpose(1, 2).flatten(3)
        parts.append((of_y @ strips).unflatten(-1, (num_bins, channels)))
    return torch.cat(parts, dim=1)


def _sampled(tokens: Tensor, size: tuple[int, int], boxes: Tensor, num_bins: int) -> Tensor:
    features = full_precision(tokens).transpose(1, 2).unflatten(2, size)
    pooled = sampled_roi_align(features, list(boxes.unbind()), num_bins, aligned=True)
    result: Tensor = pooled.to(tokens.dtype).permute(0, 2, 3, 1).unflatten(0, boxes.shape[:2])
    return result
