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
        self._shape = (len(correct), num_classes)
        self._class_start = np.searchsorted(cls[self._order], np.arange(num_classes))
        some = ignored is not None and ignored.any()
        self._counted = ~ignored[:, self._order] if ignored is not None and some else None
        level, self._place = np.nonzero(correct[:, self._order])
        self._level = level
        # Finds of one level and class stand together: a segment.
        self._segment = level * num_classes + cls[self._order][self._place]
        self._starts = np.searchsorted(self._segment, np.arange(self._shape[0] * num_classes + 1))

    def average_precision(self, positives: Ints, weight: Ints | None = None) -> Floats:
        """Return AP (T, C), 0..1, with precision made to fall as pycocotools does.

        Args:
            positives: (C,), objects that count. NaN is returned where there is none.
            weight: (M,), how often each detection counts; None for once.
        """
        weight = np.ones(len(self._order), np.int64) if weight is None else weight[self._order]
        found = np.cumsum(weight[self._place])
        before = np.r_[0, found][self._starts[:-1]]
        found = found - before[self._segment]
        precision = found / np.maximum(self._rank(weight), 1)
        for start, end in zip(self._starts[:-1], self._starts[1:], strict=True):
            if end - start > 1:
                part = precision[start:end][::-1]
                np.maximum.accumulate(part, out=part)
        # The finds that each recall takes, counted on over all segments.
        wanted = np.tile(_finds_for_recalls(positives), (self._shape[0], 1))
        step = int(max(wanted.max(initial=0), found.max(initial=0))) + 1
        numbers = np.arange(len(wanted))[:, None]
        at = np.searchsorted(self._segment * step + found, (numbers * step + wanted).ravel())
        at = at.reshape(wanted.shape)
        reached = at < self._starts[1:, None]
        ap: Floats = np.where(reached, np.r_[precision, 0][at], 0.0).mean(-1).reshape(self._shape)
        ap[:, positives == 0] = np.nan
        return ap

    def _rank(self, weight: Ints) -> Ints:
        """Return for every find how many detections of its class count up to it."""
        segment_class = self._segment % self._shape[1]
        rank: Ints
        if self._counted is None:
            total = np.r_[0, np.cumsum(weight)]
            rank = total[self._place + 1] - total[self._class_start[segment_class]]
            return rank
        rank = np.empty(len(self._place), np.int64)
        for level, counted in enumerate(self._counted):
            here = self._level == level
            total = np.r_[0, np.cumsum(weight * counted)]
            start = self._class_start[segment_class[here]]
            rank[here] = total[self._place[here] + 1] - total[start]
        return rank


def _finds_for_recalls(positives: Ints) -> Ints:
    """Return the least numbers of finds (C, R) whose share of the objects (C,) is each recall.

    One more than there are objects where no number will do.
    """
    number = np.maximum(positives, 1)[:, None]
    finds = np.ceil(RECALLS * number).astype(np.int64)
    # The share is rounded when it is compared, as in pycocotools.
    finds -= (finds > 0) & ((finds - 1) / number >= RECALLS)
    finds += finds / number < RECALLS
    # With no find there is no precision to read off.
    return np.maximum(finds, 1)


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
