"""Two runs on the same images: is the difference in AP more than chance?"""

from __future__ import annotations

from typing import Any

import numpy as np

from .curves import Ranking
from .dataset import EvaluationError, Floats, Ints
from .report import Evaluation

LEVEL = 0.95
NUM_SAMPLES = 1000


def compare(
    this: Evaluation, other: Evaluation, num_samples: int = NUM_SAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compare AP, with intervals by the paired bootstrap.

    As many images as there are are drawn with replacement, again and again, the same for both runs.
    The interval holds the middle 95% of the differences. What all draws have in common is the data
    set, not the training: another seed may differ by more.

    Args:
        this: a run.
        other: another one, on the same images.
        num_samples: how many draws.
        seed: of the draws.

    Returns:
        ``level``, ``samples`` and ``rows``, each with ``name``, AP of ``this`` and ``other``
        (0..100), ``difference`` (this minus other), and the interval, ``low`` and ``high``; NaN
        where there are no objects.

    Raises:
        EvaluationError: they are about different images or classes.
    """
    same = ("image_ids", "category_ids", "class_names")
    if any(getattr(this.data, name) != getattr(other.data, name) for name in same):
        raise EvaluationError("two runs on different images or classes can't be compared")
    sides = [_Side(this), _Side(other)]
    once = np.ones(this.data.num_images, np.int64)
    whole = np.array([side.numbers(once) for side in sides])
    random = np.random.default_rng(seed)
    drawn = np.empty((num_samples, whole.shape[1]))
    for sample in drawn:
        images = random.integers(len(once), size=len(once))
        weight = np.bincount(images, minlength=len(once))
        sample[:] = sides[0].numbers(weight) - sides[1].numbers(weight)
    names = ["AP", "AP50", "AP75", *(f"AP of {name}" for name in this.data.class_names)]
    rows = []
    for name, (mine, others), differences in zip(names, whole.T, drawn.T, strict=True):
        there = differences[~np.isnan(differences)]
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        low, high = np.quantile(there, tails) if len(there) else (np.nan, np.nan)
        rows.append(
            {
                "name": name,
                "this": float(mine),
                "other": float(others),
                "difference": float(mine - others),
                "low": float(low),
                "high": float(high),
            }
        )
    return {"level": LEVEL, "samples": num_samples, "rows": rows}


class _Side:
    """A run, made for AP of many draws."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._data, matches = evaluation.data, evaluation.matches
        found = self._data.detections
        # What stands behind the last find of its class changes no AP.
        classes = self._data.num_classes
        any_find = np.flatnonzero(matches.correct.any(0))
        last = np.full(classes, -1)
        np.maximum.at(last, found.cls[any_find], any_find)
        kept = np.arange(len(found)) <= last[found.cls]
        self._image = found.image[kept]
        self._ranking = Ranking(
            found.cls[kept], matches.correct[:, kept], matches.ignored[:, kept], classes
        )

    def numbers(self, weight: Ints) -> Floats:
        """Return AP, AP50, AP75 and AP of each class, 0..100, of images that count so often."""
        ap = 100 * self._ranking.average_precision(
            self._data.count_objects(weight), weight[self._image]
        )
        there = ~np.isnan(ap[0])
        means = ap[:, there].mean(1) if there.any() else np.full(len(ap), np.nan)
        return np.concatenate([[means.mean(), means[0], means[5]], ap.mean(0)])
