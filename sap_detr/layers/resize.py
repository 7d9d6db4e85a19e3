"""Resizing of images, the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_pixels(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image by bilinear interpolation with antialiasing, as Pillow does.

    Pillow's own result for 8 bits differs by 1 at most. On the CPU torch computes in integers like
    Pillow, but with vector instructions; other devices compute in float32 and round.

    Args:
        image: (3, H, W), uint8, with any strides.
        size: new height and width in pixels.

    Returns:
        (3, *size), uint8.
    """
    batch = image[None]
    if image.device.type == "cpu":
        return _interpolate(batch, size)[0]
    return _in_float(batch, size)[0]


def _in_float(batch: Tensor, size: tuple[int, int]) -> Tensor:
    return _interpolate(batch.float(), size).round_().to(torch.uint8)


def _interpolate(batch: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(batch, size, mode="bilinear", align_corners=False, antialias=True)
