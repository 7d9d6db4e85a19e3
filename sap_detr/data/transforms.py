"""DETR's augmentation, made of Detectron2 augmentations with the published arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from .torchvision_transforms import TorchvisionAugmentation

# The short sides of the published recipe (DETR, section A.4): 480 to 800 pixels in steps of 32.
DETR_SHORT_SIDES = tuple(range(480, 801, 32))


def resized_shape(
    height: int, width: int, short_side: int, max_size: int | None = None
) -> tuple[int, int]:
    """Size of an image (pixels) after DETR's resize.

    The short side becomes ``short_side``; if the long side would exceed ``max_size``, it becomes
    ``round(max_size * short / long)`` instead. The long side follows and is truncated, where
    Detectron2's ``ResizeShortestEdge`` rounds. Where the short side becomes 1, the long one is cut
    down to ``max_size``, whatever becomes of the shape.

    Returns:
        The new height and width, at least 1.
    """
    short, long = min(height, width), max(height, width)
    if max_size is not None and long / short * short_side > max_size:
        short_side = max(1, round(max_size * short / long))
    new_long = int(short_side * long / short)
    if max_size is not None and short_side == 1:
        # The short side can't get any shorter, so the long one alone has to keep the limit.
        new_long = min(new_long, max_size)
    return (short_side, new_long) if height <= width else (new_long, short_side)


class ResizeShortSide(T.Augmentation):  # type: ignore[misc]
    """Resize the short side to one of several lengths, drawn uniformly, with DETR's arithmetic.

    Args:
        short_sides: one length or several, in pixels.
        max_size: limit of the long side in pixels; None for no limit.
        interp: Pillow's interpolation.
    """

    def __init__(
        self,
        short_sides: int | Sequence[int],
        max_size: int | None = None,
        interp: int = Image.Resampling.BILINEAR,
    ) -> None:
        super().__init__()
        sides = (short_sides,) if isinstance(short_sides, int) else tuple(short_sides)
        if not sides or any(side < 1 for side in sides):
            raise ValueError(f"short_sides must be positive, got {short_sides!r}")
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size must be positive or None, got {max_size!r}")
        self.short_sides = sides
        self.max_size = max_size
        self.interp = interp

    def get_transform(self, image: NDArray[np.uint8]) -> T.Transform:
        """Return the transform for an image (H, W, 3)."""
        height, width = image.shape[:2]
        short_side = int(np.random.choice(self.short_sides))
        new_size = resized_shape(height, width, short_side, self.max_size)
        return T.ResizeTransform(height, width, *new_size, self.interp)


def build_train_augmentations(
    short_sides: int | Sequence[int] = DETR_SHORT_SIDES,
    max_size: int | None = 1333,
    flip_probability: float = 0.5,
    extra: Sequence[nn.Module] = (),
) -> list[T.Augmentation]:
    """Horizontal flip and resize: the training augmentation without a crop.

    Args:
        short_sides, max_size: as of :class:`ResizeShortSide`.
        flip_probability: of the horizontal flip.
        extra: transforms of torchvision.transforms.v2, applied at the end.
    """
    flip_and_resize = [T.RandomFlip(flip_probability), ResizeShortSide(short_sides, max_size)]
    return [*flip_and_resize, *map(TorchvisionAugmentation, extra)]


def build_jitter_augmentations(
    image_size: Sequence[int] = (1024, 1024),
    scale_range: Sequence[float] = (0.1, 2.0),
    flip_probability: float = 0.5,
    extra: Sequence[nn.Module] = (),
) -> list[T.Augmentation]:
    """Large-scale jitter: flip, resize by a factor drawn from a wide range, crop to a size.

    What stays smaller than that size is not padded: the model pads batches, and knows where.

    Args:
        image_size: height and width that images are fitted into before the factor, and cut to.
        scale_range: of the factor, drawn uniformly.
        flip_probability: of the horizontal flip.
        extra: transforms of torchvision.transforms.v2, applied at the end.

    Raises:
        ValueError: if the sizes or the range make no sense.
    """
    height, width = (int(side) for side in image_size)
    low, high = (float(factor) for factor in scale_range)
    if min(height, width) < 1 or not 0 < low <= high:
        raise ValueError(f"image_size {image_size!r} and scale_range {scale_range!r} make no sense")
    return [
        T.RandomFlip(flip_probability),
        T.ResizeScale(low, high, height, width),
        T.RandomCrop("absolute", (height, width)),
        *map(TorchvisionAugmentation, extra),
    ]


def build_crop_augmentations(
    short_sides: int | Sequence[int] = DETR_SHORT_SIDES,
    max_size: int | None = 1333,
    flip_probability: float = 0.5,
    pre_crop_short_sides: int | Sequence[int] = (400, 500, 600),
    crop_range: Sequence[int] = (384, 600),
    extra: Sequence[nn.Module] = (),
) -> list[T.Augmentation]:
    """Horizontal flip, resize, crop, resize: the training augmentation that half of the images get.

    Args:
        short_sides, max_size: the resize after the crop.
        flip_probability: of the horizontal flip.
        pre_crop_short_sides: the resize before the crop, without limit on the long side.
        crop_range: the crop's width and height are drawn independently and uniformly from these,
            both included, as far as the image allows.
        extra: transforms of torchvision.transforms.v2, applied at the end.
    """
    low, high = (int(v) for v in crop_range)
    if not 0 < low <= high:
        raise ValueError(f"crop_range must be two ascending sizes in pixels, got {crop_range!r}")
    return [
        T.RandomFlip(flip_probability),
        ResizeShortSide(pre_crop_short_sides),
        T.RandomCrop("absolute_range", (low, high)),
        ResizeShortSide(short_sides, max_size),
        *map(TorchvisionAugmentation, extra),
    ]


def build_test_augmentations(
    short_side: int = 800, max_size: int | None = 1333
) -> list[T.Augmentation]:
    """Return the resize for inference."""
    return [ResizeShortSide(short_side, max_size)]
