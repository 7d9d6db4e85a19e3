"""Pictures as people have them: files, folders, PIL images, arrays and tensors."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .images import image_suffixes, read_image, upright_rgb
from .pixels import FULL_RANGE, PixelRange, PixelsError, require_colors, to_levels, to_rgb

TAKEN = (
    "a file, a folder, a glob such as 'folder/*.jpg', a PIL image, an array (H, W) or (H, W, C), a "
    "tensor (H, W) or (C, H, W) of uint8, uint16 or floating point, RGB or grey, or a list of these"
)


@dataclass(frozen=True)
class AnyImage:
    """A picture that is not read yet.

    Attributes:
        name: the file, or the place in a list, such as "image 3"; "" for a picture given alone.
        content: path, PIL image, array or tensor.
    """

    name: str
    content: Any


def find_images(images: Any) -> list[AnyImage]:
    """List the pictures that something stands for, in order.

    Args:
        images: a file; a folder, of which the files count that are named like an image and not
            hidden, by name, without sub-folders; a glob, ``**`` for sub-folders; a PIL image,
            array or tensor; or a list or tuple of these. Links to nothing count as files.

    Raises:
        ValueError: it is none of these, or an empty name, or there is no such file, or no image in
            a folder or of a glob.
    """
    if isinstance(images, Image.Image | np.ndarray | torch.Tensor):
        return [AnyImage("", images)]
    return [
        AnyImage(str(item) if isinstance(item, Path) else f"image {number}", item)
        for number, item in enumerate(_contents(images))
    ]


def _contents(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for item in images:
            if isinstance(item, list | tuple):
                raise ValueError(f"a list of images has a {type(item).__name__} in it: {TAKEN}")
            yield from _contents(item)
    elif isinstance(images, str | os.PathLike):
        yield from _files(os.fspath(images))
    elif isinstance(images, Image.Image | np.ndarray | torch.Tensor):
        yield images
    else:
        given = f"{type(images).__module__}.{type(images).__qualname__}"
        raise ValueError(f"got a {given} as image; taken are {TAKEN}")


def _files(name: str | bytes) -> list[Path]:
    if not name:
        # To Path, "" is the current folder; whoever has it here has an unset variable.
        raise ValueError(f"got an empty name as image; taken are {TAKEN}")
    path = Path(os.fsdecode(name))
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if _is_image(file)]
        if not found:
            known = ", ".join(sorted(image_suffixes()))
            raise ValueError(f"the folder {path} has no images ({known}) that are not hidden")
        return found
    if path.is_file():
        return [path]
    if glob.has_magic(str(path)):
        found = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
        found = [file for file in found if _is_image(file)]
        if found:
            return found
        raise ValueError(f"there is no image like {path}")
    raise ValueError(f"there is no file or folder {path}; taken are {TAKEN}")


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")
    # What was listed and is not there is a link to nothing, which is told when it is read.
    there = path.is_file() or not path.exists()
    return path.suffix.lower() in image_suffixes() and not hidden and there


def to_pixels(
    image: Any,
    pixel_range: PixelRange = FULL_RANGE,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.uint8]:
    """Convert any image to RGB of 8 bits, in the way in which files are read.

    Args:
        image: path of a file, read upright; PIL image of any mode; array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4), whose alpha is left out; tensor (H, W) or, as torch has them,
            (1, H, W), (3, H, W) or (4, H, W). RGB, not BGR.
        pixel_range: which values of 16 bits become black and white.
        value_range: which floating point values become black and white.

    Returns:
        (H, W, 3).

    Raises:
        ValueError: it is something else, or its values are outside of the range; the message says
            what was given and what is taken. Of a file it is a :class:`BadImageError`.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(os.fspath(image), pixel_range=pixel_range)
    if isinstance(image, Image.Image):
        return np.asarray(upright_rgb(image, pixel_range))
    if isinstance(image, torch.Tensor):
        return _from_array(_from_tensor(image), pixel_range, value_range)
    if isinstance(image, np.ndarray):
        return _from_array(image, pixel_range, value_range)
    given = f"{type(image).__module__}.{type(image).__qualname__}"
    raise ValueError(f"got a {given} as image; taken are {TAKEN}")


def black_and_white(value_range: Any) -> tuple[float, float]:
    """Return the floating point values that become black and white.

    Raises:
        ValueError: they are not two finite numbers, the second larger.
    """
    try:
        black, white = value_range
        if black < white and math.isfinite(white - black):
            return float(black), float(white)
    except (TypeError, ValueError, OverflowError):  # not two, or no numbers
        pass
    raise ValueError(f"value_range must be (black, larger white), finite, got {value_range!r}")


def _from_tensor(image: torch.Tensor) -> NDArray[Any]:
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[0] in (1, 3, 4)):
        remedy = ""
        if image.ndim == 4:
            remedy = "; give list(tensor) for the images of a batch"
        elif image.ndim == 3 and image.shape[2] in (1, 3, 4):
            remedy = "; its channels come last, give tensor.permute(2, 0, 1) or tensor.numpy()"
        raise ValueError(
            f"got a tensor {tuple(image.shape)} as image{remedy}; taken are tensors (H, W) or "
            "(C, H, W) with C of 1, 3 or 4"
        )
    if image.dtype == torch.bfloat16:
        image = image.float()
    image = image.detach().cpu()
    return np.asarray((image if image.ndim == 2 else image.permute(1, 2, 0)).numpy())


def _from_array(
    image: NDArray[Any], pixel_range: PixelRange, value_range: tuple[float, float]
) -> NDArray[np.uint8]:
    given = f"got an image of {image.dtype} {image.shape}"
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] in (1, 3, 4)):
        remedy = ""
        if image.ndim == 4:
            remedy = "; give list(array) for the images of a batch"
        elif image.ndim == 3 and image.shape[0] in (1, 3, 4):
            remedy = "; its channels come first, give array.transpose(1, 2, 0)"
        raise ValueError(f"{given}{remedy}; taken are (H, W) or (H, W, C) with C of 1, 3 or 4")
    if not image.size:
        raise ValueError(f"{given}, which is empty")
    if image.ndim == 3 and image.shape[2] == 4:
        # Alpha is left out first: the range is that of the colours.
        levels = _to_8_bits(image[:, :, :3], pixel_range, value_range, given)
        require_colors(image[:, :, :3], image)
        return np.ascontiguousarray(levels)
    levels = _to_8_bits(image, pixel_range, value_range, given)
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[:, :, 0]
    if levels.ndim == 3 and levels.shape[2] == 3:
        return levels
    return np.asarray(to_rgb(Image.fromarray(np.ascontiguousarray(levels))))


def _to_8_bits(
    image: NDArray[Any], pixel_range: PixelRange, value_range: tuple[float, float], given: str
) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    try:
        if image.dtype.kind == "u" and image.dtype.itemsize == 2:  # of either byte order
            return to_levels(image, pixel_range, full=2.0**16)
        if image.dtype.kind == "f":
            black, white = black_and_white(value_range)
            return to_levels((image.astype(np.float64) - black) / (white - black), FULL_RANGE, 1.0)
    except PixelsError as error:
        if image.dtype.kind != "f":
            raise ValueError(f"{given}: {error}") from error
        raise ValueError(
            f"{given} with values from {image.min():g} to {image.max():g}; taken are finite values "
            f"of the range value_range={value_range}, black and white, that do not fall together"
        ) from error
    raise ValueError(f"{given}; taken are uint8, uint16 and floating point")
