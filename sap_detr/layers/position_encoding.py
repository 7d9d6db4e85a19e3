"""Sine encodings of coordinates and of feature maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sine_encoding(phase: Tensor, num_channels: int, temperature: float) -> Tensor:
    """Encode numbers by sines and cosines of geometrically falling frequencies.

    Channel ``k`` is ``sin(phase / t_k)`` for even and ``cos(phase / t_k)`` for odd ``k``, with
    ``t_k = temperature ** (2 * floor(k / 2) / num_channels)``. Computed in the dtype of ``phase``.

    Args:
        phase: (...), usually ``2 * pi`` times a fraction.
        num_channels: even number of channels.
        temperature: ratio of the longest to the shortest wave length.

    Returns:
        (..., num_channels).
    """
    pair = torch.arange(num_channels // 2, dtype=phase.dtype, device=phase.device)
    angle = phase[..., None] / temperature ** (2 * pair / num_channels)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


class SinePositionEncoding(nn.Module):
    """Fixed position encoding of a feature map: D/2 channels for y, then D/2 for x (DETR).

    Rows and columns are counted from 1 over the cells that are not padding and divided by the last
    count of the same column or row, so that an image has the same encoding alone and in a padded
    batch.

    With ``cell_centres``, columns (rows) of nothing but padding have phases near -3e6 in the
    published arithmetic, so that their encoding is noise that differs between dtypes. No valid cell
    sees it in its own encoding, but what reads the features of padded cells does (SAM-DETR's
    queries). ``well_conditioned`` ends that.

    Args:
        embed_dim: number of channels D, a multiple of 4.
        temperature: 10000 in DETR and SAM-DETR, 20 in SAP-DETR.
        eps: added to the last count before dividing by it.
        cell_centres: count 0.5, 1.5, ... instead of 1, 2, ... (SAM-DETR).
        well_conditioned: divide by 1 at least. The same encoding on all cells that are not padding,
            up to rounding; not for published weights on padded batches.
    """

    def __init__(
        self,
        embed_dim: int,
        temperature: float = 10000.0,
        eps: float = 1e-6,
        cell_centres: bool = False,
        well_conditioned: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % 4:
            raise ValueError(
                f"embed_dim={embed_dim} must be a multiple of 4: sin and cos of y and x"
            )
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.eps = eps
        self.shift = 0.5 if cell_centres else 0.0
        self.well_conditioned = well_conditioned

    def forward(self, padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Encode every cell, padded ones included.

        Args:
            padding_mask: (B, H, W) bool, True on padding.
            dtype: dtype of the result and of everything on the way to it.

        Returns:
            (B, D, H, W).
        """
        valid = (~padding_mask).to(dtype)
        rows, columns = valid.cumsum(1) - self.shift, valid.cumsum(2) - self.shift
        y = rows / self._divisor(rows[:, -1:, :]) * (2 * math.pi)
        x = columns / self._divisor(columns[:, :, -1:]) * (2 * math.pi)
        half = self.embed_dim // 2
        encoded = [sine_encoding(phase, half, self.temperature) for phase in (y, x)]
        return torch.cat(encoded, dim=-1).permute(0, 3, 1, 2)

    def _divisor(self, last: Tensor) -> Tensor:
        if self.well_conditioned:
            return (last + self.shift).clamp(min=1) + self.eps
        # In this order, as published: where nothing is valid it decides about the result.
        return (last + self.eps) + self.shift


def encode_points(points: Tensor, embed_dim: int, temperature: float) -> Tensor:
    """Sine encoding of the coordinates of points or corners, side by side.

    Args:
        points: (..., n) fractions of the image.
        embed_dim: D; every coordinate gets D/2 channels.
        temperature: see :func:`sine_encoding`.

    Returns:
        (..., n * D/2), in the order of the coordinates.
    """
    return sine_encoding(2 * math.pi * points, embed_dim // 2, temperature).flatten(-2)
