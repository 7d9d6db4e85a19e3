"""Draws an augmentation from the size of an image, and only then makes the pixels it asks for.

What is known before the file is decoded saves work: a JPEG that will shrink to less than half is
decoded at a fraction of its size, and an image that would grow at the end can be left small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor

from ..layers import resize_pixels
from .images import OpenImage

# Pixels that a reduced JPEG keeps on each axis for one of the resized image. Below 2 the lost
# detail shows.
_REDUCING_GAP = 2

_SAME_SIZE = (T.NoOpTransform, T.HFlipTransform, T.VFlipTransform, T.BlendTransform)


class SizeOnly:
    """Stands in for an image (H, W, 3) that is not decoded yet.

    Augmentations can ask for its shape.

    Raises:
        ValueError: if anything else is asked of it.
    """

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width, 3)

    def __getattr__(self, name: str) -> Any:
        _refuse("an augmentation looks at the pixels")

    def __getitem__(self, index: object) -> NoReturn:
        _refuse("an augmentation looks at the pixels")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse("an augmentation looks at the pixels")


class SizeInput(T.AugInput):  # type: ignore[misc]
    """What augmentations are drawn with when there are no pixels yet.

    Args:
        height, width: of the image in pixels; ``image.shape`` has what becomes of them.
    """

    def __init__(self, height: int, width: int) -> None:
        self.image = SizeOnly(height, width)
        self.boxes = None
        self.sem_seg = None

    def transform(self, tfm: T.Transform) -> None:
        """Change the size as a transform would.

        Raises:
            ValueError: if that is not known of the transform.
        """
        if isinstance(tfm, T.ResizeTransform):
            self.image = SizeOnly(tfm.new_h, tfm.new_w)
        elif isinstance(tfm, T.CropTransform):
            self.image = SizeOnly(tfm.h, tfm.w)
        elif isinstance(tfm, T.TransformList):
            for part in tfm.transforms:
                self.transform(part)
        elif not isinstance(tfm, _SAME_SIZE):
            _refuse(f"what {type(tfm).__name__} makes of an image's size is not known")


def _refuse(why: str) -> NoReturn:
    raise ValueError(f"{why}, but the pixels are not decoded yet: set the mapper's reader to 'pil'")


def require_size_only(augmentations: T.AugmentationList) -> None:
    """Try augmentations on an image of which only the size is known.

    Raises:
        ValueError: if they need more.
    """
    state = np.random.get_state()
    try:
        augmentations(SizeInput(480, 640))
    finally:
        np.random.set_state(state)


def render(
    file: OpenImage,
    transforms: T.TransformList,
    image_format: str = "RGB",
    leave_enlarging: bool = False,
) -> tuple[Tensor, tuple[int, int] | None]:
    """Decode an image and transform it.

    Differs from what the transforms themselves would do by 1 of 255 per bilinear resize. Where a
    JPEG was decoded at a fraction of its size, the finest detail differs, and what is at the right
    and lower edge can be off by less than half a pixel, because reduced sizes are rounded up.

    Args:
        file: the image.
        transforms: drawn for its size.
        image_format: order of the channels.
        leave_enlarging: leave out a bilinear resize at the end that makes the image larger.

    Returns:
        (3, H, W), uint8, in memory either that or (H, W, 3); and the height and width that it
        still has to be resized to, if a resize was left out.

    Raises:
        BadImageError: if the image can't be decoded.
    """
    steps = [t for t in transforms.transforms if not isinstance(t, T.NoOpTransform)]
    resize_to = None
    if leave_enlarging and steps and _enlarges(steps[-1]):
        last = steps.pop()
        resize_to = (last.new_h, last.new_w)
    # A copy, because torch takes neither read-only arrays nor negative strides.
    pixels = file.decode(image_format, _sufficient_size(steps)).copy()
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for step in steps:
        image = _apply(step, image)
    if not image[None].is_contiguous(memory_format=torch.channels_last):
        image = image.contiguous()
    return image, resize_to


def _sufficient_size(steps: Sequence[T.Transform]) -> tuple[int, int] | None:
    """Height and width that an image must have at least for its first resize; None: its own."""
    for step in steps:
        if _is_bilinear(step):
            return _REDUCING_GAP * step.new_h, _REDUCING_GAP * step.new_w
        if not isinstance(step, (T.HFlipTransform, T.VFlipTransform)):
            break
    return None


def _apply(step: T.Transform, image: Tensor) -> Tensor:
    """One transform of (3, H, W)."""
    if isinstance(step, T.HFlipTransform):
        return image.flip(-1)
    if isinstance(step, T.VFlipTransform):
        return image.flip(-2)
    if isinstance(step, T.CropTransform):
        return image[:, step.y0 : step.y0 + step.h, step.x0 : step.x0 + step.w]
    if _is_bilinear(step):
        return resize_pixels(image, (step.new_h, step.new_w))
    pixels = step.apply_image(image.permute(1, 2, 0).contiguous().numpy())
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _is_bilinear(step: T.Transform) -> bool:
    return isinstance(step, T.ResizeTransform) and step.interp == Image.Resampling.BILINEAR


def _enlarges(step: T.Transform) -> bool:
    return _is_bilinear(step) and step.new_h * step.new_w > step.h * step.w
