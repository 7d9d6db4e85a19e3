"""Attention with a Gaussian around a centre per head and query, in two equal forms.

The Gaussian adds to the attention logit of the cell in column j and row i

    G = -((s_x * (j + 0.5 - c_x)) ** 2 + (s_y * (i + 0.5 - c_y)) ** 2) / 8

with the centre c (in cells) and the sharpness s of the query: the side-directed Gaussian of
SAP-DETR and the spatially modulated attention of SAM-DETR. It is a sum of a term of x and a term of
y, so nothing of the size queries x cells x 2 is ever needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .attention import attention
from .axis_bias import AxisBias
from .precision import full_precision

GAUSSIAN_FORMS = ("bias", "folded")


def cell_centres(length: int, like: Tensor) -> Tensor:
    """(length,) coordinates of the cells of one axis: 0.5, 1.5, ..."""
    return torch.arange(length, dtype=like.dtype, device=like.device) + 0.5


def point_towards_sides(points: Tensor, sides: Tensor, direction: Tensor) -> Tensor:
    """Move points towards a side of their box, horizontally and vertically.

    Args:
        points: (..., 2).
        sides: (..., 4).
        direction: (..., 2), where -1 is the left or top side, 0 the point, 1 the right or bottom
            side; usually within -1 .. 1.

    Returns:
        (..., 2).
    """
    before, after = sides.split(2, dim=-1)
    return points + direction * torch.where(direction > 0, after, before)


def gaussian_bias(centre: Tensor, sharpness: Tensor, size: tuple[int, int]) -> AxisBias:
    """Return the Gaussian, with each of its terms shifted so that its largest value is 0.

    A constant per query cancels in the softmax. Without it a centre far outside of the map would
    leave nothing but large numbers, whose differences are lost in half precision.

    Args:
        centre: (B, M, Q, 2), (x, y) in cells.
        sharpness: (B, M, Q, 2), for x and y.
        size: (H, W) of the map.
    """
    terms = []
    for axis, length in enumerate((size[1], size[0])):
        distance = cell_centres(length, centre) - centre[..., axis, None]
        term = -(sharpness[..., axis, None] * distance).square() / 8
        terms.append(term - term.detach().amax(-1, keepdim=True))
    return AxisBias(*terms)


def gaussian_features(
    centre: Tensor, sharpness: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Vectors whose dot products are the Gaussian, but for a constant per query.

    Coordinates count from the middle of the map, which keeps the squares small.

    Args:
        centre, sharpness, size: as in :func:`gaussian_bias`.

    Returns:
        (B, M, Q, 4) for the queries and (N, 4) for the cells.
    """
    height, width = size
    middle = (width / 2, height / 2)
    shifted = torch.stack([c - m for c, m in zip(centre.unbind(-1), middle, strict=True)], dim=-1)
    square = sharpness.square()
    queries = torch.cat((-square / 8, square * shifted / 4), dim=-1)
    x = cell_centres(width, centre) - middle[0]
    y = cell_centres(height, centre) - middle[1]
    cells = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).flatten(0, 1)
    return queries, torch.cat((cells.square(), cells), dim=-1)


def gaussian_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    centre: Tensor,
    sharpness: Tensor,
    size: tuple[int, int],
    *,
    form: str = "bias",
    key_padding_mask: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """:func:`attention` over the cells of a map, with a Gaussian added to the logits.

    Args:
        query: (B, M, Q, E).
        key: (B, M, N, E).
        value: (B, M, N, V).
        centre, sharpness, size: as in :func:`gaussian_bias`; N = H * W.
        form: "bias" adds a bias of the size of the attention weights. "folded" appends four
            dimensions to queries and keys instead, so that no such tensor exists; it stays in
            full precision under autocast, because it holds squares of coordinates.
        key_padding_mask, dropout, scale: as in :func:`attention`.

    Returns:
        (B, Q, M * V).
    """
    centre, sharpness = full_precision(centre), full_precision(sharpness)
    if form == "bias":
        bias = gaussian_bias(centre, sharpness, size).to(query.dtype)
        return attention(
            query,
            key,
            value,
            key_padding_mask=key_padding_mask,
            bias=bias,
            dropout=dropout,
            scale=scale,
        )
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query, key, value = full_precision(query), full_precision(key), full_precision(value)
    # Autocast knows nothing of the meta device, where nothing is computed.
    device = "cpu" if query.is_meta else query.device.type
    with torch.autocast(device, enabled=False):
        queries, cells = gaussian_features(centre, sharpness, size)
        # Half of the scale on each side, so that neither grows much.
        factor = math.sqrt(1 / scale)
        cells = (cells * factor).expand(*key.shape[:2], -1, -1)
        return attention(
            torch.cat((query, queries * factor), dim=-1),
            torch.cat((key, cells), dim=-1),
            value,
            key_padding_mask=key_padding_mask,
            dropout=dropout,
            scale=scale,
        )
