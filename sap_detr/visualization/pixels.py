"""What an image in memory is here, and what is said of everything else."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..text import shorten

Pixels = NDArray[np.uint8]


def check_image(image: Any) -> None:
    """Check that an image is what everything here takes: a uint8 array (H, W, 3), RGB.

    Raises:
        ValueError: if it is something else: what was given, and what makes an image of it.
    """
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return
        given = f"an array of {image.dtype} {image.shape}"
        if image.dtype.kind == "f" and image.size:
            given += f" with values from {image.min():g} to {image.max():g}"
    elif isinstance(image, str | os.PathLike):
        given = f"a path, {shorten(str(image))}"
    else:
        given = f"a {type(image).__module__}.{type(image).__qualname__}"
        if hasattr(image, "shape") and hasattr(image, "dtype"):
            given += f" of {image.dtype} {tuple(image.shape)}"
    raise ValueError(
        f"an image must be a uint8 array (H, W, 3), RGB, and not empty; got {given}. "
        "sap_detr.data.to_pixels makes one of a file, a PIL image, or an array or tensor of other "
        "shape or values, or says why it can't"
    )
