"""Whether scores are what they say: of detections with a score of 0.7, seven in ten are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dataset import Bools, Floats, Ints

NUM_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Scores and how often they are right, in ten bins: from 0 up to below 0.1, ..., 0.9 to 1.

    Attributes:
        count: (10,), detections.
        score: (10,), mean score; NaN without detections.
        precision: (10,), share of those that have found an object (at an overlap of 0.5); NaN.
        error: the expected calibration error: the difference of the two, averaged over detections.
    """

    count: Ints
    score: Floats
    precision: Floats
    error: float


def calibrate(score: Floats, correct: Bools) -> Calibration:
    """Compare scores (M,) with whether the detections are right (M,)."""
    place = np.minimum((score * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    count = np.bincount(place, minlength=NUM_BINS)
    number = np.where(count > 0, count, np.nan)
    mean = np.bincount(place, score, NUM_BINS) / number
    precision = np.bincount(place, correct, NUM_BINS) / number
    difference = np.nansum(np.abs(mean - precision) * count)
    return Calibration(count, mean, precision, float(difference / max(len(score), 1)))
