"""Whether scores are what they say: of detections with a score of 0.7, seven in ten are right."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dataset import Bools, Floats

NUM_BINS = 10


def calibrate(score: Floats, correct: Bools) -> dict[str, Any]:
    """Compare scores (M,) with whether the detections are right (M,).

    Returns:
        Of ten bins, from 0 up to below 0.1, ..., 0.9 to 1: ``count``, the detections; ``score``,
        their mean score; and ``precision``, the share of those that have found an object (at an
        overlap of 0.5); the latter NaN without detections. And ``error``, the expected calibration
        error: the difference of the two, averaged over detections.
    """
    place = np.minimum((score * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    count = np.bincount(place, minlength=NUM_BINS)
    number = np.where(count > 0, count, np.nan)
    mean = np.bincount(place, score, NUM_BINS) / number
    precision = np.bincount(place, correct, NUM_BINS) / number
    error = np.nansum(np.abs(mean - precision) * count) / max(len(score), 1)
    return {
        "count": count.tolist(),
        "score": mean.tolist(),
        "precision": precision.tolist(),
        "error": float(error),
    }
