"""What an image in memory is here, and what is said of everything else."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..text import shorten

Pixels = NDArray[np.uint8]


def check_image(image: Any) -> None:
    """Check that an image is what everything here takes: a uint8 array (H, W, 3), RGB.

    Raises:
        ValueError: if it is something else: what was given, and how to make an image of it.
    """
    wanted = "an image must be a uint8 array (H, W, 3), RGB, and not empty"
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return
        given = f"an array of {image.dtype} {image.shape}"
        if image.dtype.kind == "f" and image.size:
            given += f" with values from {image.min():g} to {image.max():g}"
        raise ValueError(f"{wanted}; got {given}{_remedy(image)}")
    if isinstance(image, str | os.PathLike):
        given, remedy = f"a path, {shorten(str(image))}", "read it with sap_detr.data.read_image"
    elif isinstance(image, Image.Image):
        given = f"a PIL image of mode {image.mode}"
        remedy = 'give numpy.asarray(image.convert("RGB"))'
    else:
        given, remedy = f"a {type(image).__module__}.{type(image).__qualname__}", ""
        if hasattr(image, "shape") and hasattr(image, "dtype"):
            given += f" of {image.dtype} {tuple(image.shape)}"
            remedy = "give an array, such as tensor.permute(1, 2, 0).numpy() of a (3, H, W) one"
    raise ValueError(f"{wanted}; got {given}" + (f": {remedy}" if remedy else ""))


def _remedy(image: NDArray[Any]) -> str:
    """Return how to make an image of an array, as far as that can be told."""
    if image.dtype.kind == "f" and image.size and 0 <= image.min() <= image.max() <= 1:
        return ": give (255 * image).round().astype(numpy.uint8)"
    if image.dtype != np.uint8 or not image.size:
        return ""
    if image.ndim == 2 or image.shape[2:] == (1,):
        return ": it is grey, give numpy.dstack([image] * 3)"
    if image.ndim == 3 and image.shape[2] == 4:
        return ": it has an alpha channel, give image[:, :, :3]"
    if image.ndim == 3 and image.shape[0] == 3:
        return ": its channels come first, give image.transpose(1, 2, 0)"
    return ": give one image at a time" if image.ndim == 4 else ""
