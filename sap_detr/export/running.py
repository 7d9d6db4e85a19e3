"""What every format's file can be run as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Found(NamedTuple):
    """What is found in a batch.

    Attributes:
        boxes: (B, K, 4), float32, XYXY in pixels.
        scores: (B, K), float32, descending.
        classes: (B, K), int64.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def of_image(self, index: int, most: int) -> Found:
        """Return the best detections of one image, without the first dimension."""
        return Found(*(x[index, :most] for x in self))  # type: ignore[arg-type]


# Images (B, 3, H, W) uint8 and their sizes (B, 2) int64.
Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
Runner = Callable[[NDArray[np.uint8], NDArray[np.int64]], Found]
# Batches that int8 takes the ranges of numbers from.
Calibration = Sequence[Batch]
