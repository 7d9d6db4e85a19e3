"""Which detection overlaps which object, and which finds which, by COCO's rules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dataset import Bools, EvaluationData, Floats, Ints


@dataclass(frozen=True)
class Pairs:
    """Pairs of a detection and an object in the same image.

    Attributes:
        found: (P,), index of the detection.
        true: (P,), index of the object.
        overlap: (P,), their IoU; with a crowd, the share of the detection that lies in it.
    """

    found: Ints
    true: Ints
    overlap: Floats

    def where(self, chosen: Bools) -> Pairs:
        """Return some of the pairs: (P,), True for those."""
        return Pairs(self.found[chosen], self.true[chosen], self.overlap[chosen])

    def best(self, number: int) -> tuple[Floats, Ints]:
        """Find the object that each detection overlaps most.

        Args:
            number: of detections, M.

        Returns:
            The overlap (M,), 0 where there is no pair, and the object (M,), -1 there. Of equal
            overlaps the first object.
        """
        order = np.lexsort((self.true, -self.overlap, self.found))
        found, first = np.unique(self.found[order], return_index=True)
        overlap, true = np.zeros(number), np.full(number, -1)
        overlap[found] = self.overlap[order[first]]
        true[found] = self.true[order[first]]
        return overlap, true


@dataclass(frozen=True)
class Matches:
    """Finds, at COCO's ten overlaps, 0.5 to 0.95.

    Attributes:
        true_of: (T, M), the object that a detection has found; -1 for none.
        ignored: (T, M), whether a detection lies in a crowd, so that it does not count.
        found_by: (T, N), the detection that has found an object; -1 for none. Of crowds, -1.
    """

    true_of: NDArray[np.int32]
    ignored: Bools
    found_by: NDArray[np.int32]

    @property
    def correct(self) -> Bools:
        """(T, M), whether a detection has found an object that counts."""
        return (self.true_of >= 0) & ~self.ignored


def find_pairs(data: EvaluationData, least: float) -> Pairs:
    """Return all pairs of some overlap, of whatever classes.

    Args:
        data: objects and detections.
        least: the least overlap, above 0.
    """
    from pycocotools.mask import iou

    objects, found = data.objects, data.detections
    images = np.arange(1, data.num_images)
    by_image = np.argsort(found.image, kind="stable")
    of_found = np.split(by_image, np.searchsorted(found.image[by_image], images))
    of_true = np.split(np.arange(len(objects)), np.searchsorted(objects.image, images))
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for f, t in zip(of_found, of_true, strict=True):
        if len(f) and len(t):
            overlap = iou(found.box[f], objects.box[t], objects.crowd[t])
            row, column = np.nonzero(overlap >= least)
            parts.append((f[row], t[column], overlap[row, column]))
    return Pairs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
