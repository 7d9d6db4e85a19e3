"""Resizing as Pillow does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sap_detr.layers import resize, resize_pixels

SIZES = [(57, 83), (31, 97), (20, 30), (9, 11)]  # larger, in one direction, the same, smaller


def _image() -> torch.Tensor:
    pixels = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _by_pillow(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    resized = np.array(pixels.resize(size[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", ["interleaved", "planar", "cut out"])
def test_differs_from_pillow_by_one_at_most(size: tuple[int, int], layout: str) -> None:
    image = _image()
    if layout == "planar":
        image = image.contiguous()
    elif layout == "cut out":
        image = image[:, 2:17, 4:26]
    resized = resize_pixels(image, size)
    assert resized.dtype == torch.uint8
    assert resized.shape == (3, *size)
    assert (resized.int() - _by_pillow(image, size).int()).abs().max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_what_other_devices_compute(size: tuple[int, int]) -> None:
    """In float32, the arithmetic of a GPU."""
    image = _image()
    resized = resize._in_float(image[None], size)[0]
    assert resized.dtype == torch.uint8
    assert (resized.int() - _by_pillow(image, size).int()).abs().max() <= 1
