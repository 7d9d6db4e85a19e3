"""AP as COCO defines it, and scores from which on it is best to believe a detection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dataset import Bools, Floats, Ints

# The recalls at which COCO reads off precision.
RECALLS: Floats = np.linspace(0, 1, 101)


class Ranking:
    """Detections by class and score, for AP of all images and of any choice of them.

    Args:
        cls: (M,), classes of the detections, the best first.
        correct: (T, M), whether they have found an object.
        ignored: (T, M), whether they do not count; None if all do.
        num_classes: C.
    """

    def __init__(self, cls: Ints, correct: Bools, ignored: Bools | None, num_classes: int) -> None:
        self._order = np.argsort(cls, kind="stable")
        self._starts = np.searchsorted(cls[self._order], np.arange(num_classes + 1))
        self._counted = None if ignored is None else ~ignored[:, self._order]
        # Of each overlap, where the finds of each class stand.
        self._finds = [
            np.split(finds, np.searchsorted(finds, self._starts[1:-1]))
            for finds in map(np.flatnonzero, correct[:, self._order])
        ]

    def average_precision(self, positives: Ints, weight: Ints | None = None) -> Floats:
        """Return AP (T, C), 0..1, with precision made to fall as pycocotools does.

        Args:
            positives: (C,), objects that count. NaN is returned where there is none.
            weight: (M,), how often each detection counts; None for once.
        """
        weight = np.ones(len(self._order), np.int64) if weight is None else weight[self._order]
        ap = np.full((len(self._finds), len(positives)), np.nan)
        for level, of_level in enumerate(self._finds):
            counted = weight if self._counted is None else weight * self._counted[level]
            total = np.concatenate([[0], np.cumsum(counted)])
            for number in np.flatnonzero(positives):
                place = of_level[number]
                found = np.cumsum(weight[place])
                rank = total[place + 1] - total[self._starts[number]]
                precision = np.zeros(len(place) + 1)
                precision[:-1] = found / np.maximum(rank, 1)
                precision = np.maximum.accumulate(precision[::-1])[::-1]
                # Where no number of finds reaches a recall, there is no precision to read off.
                at = np.searchsorted(found / positives[number], RECALLS)
                ap[level, number] = precision[at].mean()
        return ap


@dataclass(frozen=True)
class Threshold:
    """The score from which on detections are best believed.

    Attributes:
        score: in the middle between the last detection that is believed and the next.
        f1, precision, recall: of the detections that are believed, 0..1.
    """

    score: float
    f1: float
    precision: float
    recall: float


def best_threshold(score: Floats, correct: Bools, positives: int) -> Threshold | None:
    """Find the threshold of the highest F1, 2 · finds / (detections + objects).

    Args:
        score: (M,), descending.
        correct: (M,), whether the detection has found an object.
        positives: how many objects there are.

    Returns:
        Of several the one that believes the fewest detections; None if nothing is found.
    """
    if not correct.any():
        return None
    found, number = np.cumsum(correct), np.arange(1, len(score) + 1)
    f1 = 2 * found / (number + positives)
    f1[:-1][score[:-1] == score[1:]] = -1  # equal scores are believed together
    last = int(np.argmax(f1))
    limit = float(score[last])
    if last + 1 < len(score):
        middle = (limit + float(score[last + 1])) / 2
        limit = middle if middle > score[last + 1] else limit
    return Threshold(
        limit, float(f1[last]), float(found[last] / number[last]), float(found[last] / positives)
    )
