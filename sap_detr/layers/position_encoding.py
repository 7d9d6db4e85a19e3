"""Sine encodings of coordinates and of feature maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sine_encoding(phase: Tensor, num_channels: int, temperature: float) -> Tensor:
    """Encodes numbers by sines and cosines of geometrically falling frequencies.

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

    Args:
        embed_dim: number of channels D, a multiple of 4.
        temperature: 10000 in DETR and SAM-DETR, 20 in SAP-DETR.
        eps: added to the last count before dividing by it.
    """

    def __init__(self, embed_dim: int, temperature: float = 10000.0, eps: float = 1e-6) -> None:
        super().__init__()
        if embed_dim % 4:
            raise ValueError(
                f"embed_dim={embed_dim} must be a multiple of 4: sin and cos of y and x"
            )
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.eps = eps

    def forward(self, padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Encodes every cell, padded ones included.

        Args:
            padding_mask: (B, H, W) bool, True on padding.
            dtype: dtype of the result and of everything on the way to it.

        Returns:
            (B, D, H, W).
        """
        valid = (~padding_mask).to(dtype)
        rows, columns = valid.cumsum(1), valid.cumsum(2)
        y = 2 * math.pi * rows / (rows[:, -1:, :] + self.eps)
        x = 2 * math.pi * columns / (columns[:, :, -1:] + self.eps)
        half = self.embed_dim // 2
        encoded = [sine_encoding(phase, half, self.temperature) for phase in (y, x)]
        return torch.cat(encoded, dim=-1).permute(0, 3, 1, 2)
