"""torchvision.transforms.v2 among Detectron2's augmentations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import tv_tensors


class TorchvisionAugmentation(T.Augmentation):  # type: ignore[misc]
    """A transform of torchvision.transforms.v2, or several in a ``Compose``.

    Colour, blur, noise, flips, rotations, perspective: whatever keeps every box and gives 8 bits
    again. Boxes go through it as ``tv_tensors.BoundingBoxes``, with the random numbers of their
    image; what looks at boxes to draw these (RandomIoUCrop) can't be used. The mapper has to read
    with "pil", because pixels are needed.

    Args:
        transform: the transform.

    Raises:
        ValueError: if it is none.
    """

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        if not isinstance(transform, nn.Module):
            raise ValueError(f"{transform!r} is not a transform of torchvision.transforms.v2")
        self.transform = transform

    def get_transform(self, image: NDArray[np.uint8]) -> T.Transform:
        """Draw what the transform will do to an image (H, W, 3), from numpy's global state."""
        height, width = image.shape[:2]
        seed = int(np.random.randint(2**31))
        return TorchvisionTransform(self.transform, seed, (height, width))


class TorchvisionTransform(T.Transform):  # type: ignore[misc]
    """What a transform does to an image of a size, and to its boxes.

    Args:
        transform: draws from torch's global state.
        seed: of what it draws.
        size: height and width.
    """

    def __init__(self, transform: Callable[..., Any], seed: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.transform = transform
        self.seed = seed
        self.size = size

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Transform (H, W, 3), uint8.

        Raises:
            ValueError: if that does not give (H, W, 3), uint8.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        result, _ = self._apply(pixels, torch.zeros(0, 4))
        if result.dtype != torch.uint8 or result.ndim != 3 or result.shape[0] != 3:
            raise ValueError(
                f"{self.transform} makes {result.dtype} of {tuple(result.shape)} of an image, "
                "not 8 bits and 3 channels: leave out what scales or normalises, the model does it"
            )
        return np.ascontiguousarray(result.permute(1, 2, 0).numpy())

    def apply_box(self, box: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform (N, 4), XYXY in pixels, into the boxes around what becomes of them.

        Raises:
            ValueError: if boxes get lost.
        """
        # As large as the image, so that noise takes as many random numbers.
        blank = torch.zeros(3, *self.size, dtype=torch.uint8)
        _, boxes = self._apply(blank, torch.from_numpy(np.asarray(box, np.float64)))
        if len(boxes) != len(box):
            raise ValueError(
                f"{self.transform} makes {len(boxes)} boxes of {len(box)}: leave out what drops "
                "boxes, the mapper drops those without area"
            )
        return boxes.numpy()

    def apply_coords(self, coords: NDArray[np.float64]) -> NDArray[np.float64]:
        """Refuse: torchvision transforms boxes, not points.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self.transform} transforms images and boxes only")

    def _apply(self, pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        given = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=self.size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            image, found = self.transform(tv_tensors.Image(pixels), given)
        return image.as_subclass(Tensor), found.as_subclass(Tensor)
