"""Which detection finds which object: COCO's rules, for all images and thresholds at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dataset import Bools, Detections, EvaluationData, Floats, Ints, Objects, rank_within

# COCO's ten overlaps (IoU) from which on a detection has found an object, 0.5 to 0.95.
OVERLAPS: Floats = np.linspace(0.5, 0.95, 10)

# Pairs of a detection and an object that are compared at a time.
_MOST_PAIRS = 2**21


@dataclass(frozen=True)
class Pairs:
    """Pairs of a detection and an object in the same image, ordered by detection, then object.

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
        order = order[rank_within(self.found[order]) == 0]
        overlap, true = np.zeros(number), np.full(number, -1)
        overlap[self.found[order]] = self.overlap[order]
        true[self.found[order]] = self.true[order]
        return overlap, true


@dataclass(frozen=True)
class Matches:
    """Finds, at T overlaps.

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
    objects, found = data.objects, data.detections
    count = np.bincount(objects.image, minlength=data.num_images)
    first = np.cumsum(count) - count
    number = count[found.image]
    borders = np.flatnonzero(np.diff(np.cumsum(number) // _MOST_PAIRS)) + 1
    parts = np.split(np.arange(len(found)), borders)
    pieces = [_pairs_of(part, number, first, objects, found, least) for part in parts]
    return Pairs(
        np.concatenate([p.found for p in pieces]),
        np.concatenate([p.true for p in pieces]),
        np.concatenate([p.overlap for p in pieces]),
    )


def _pairs_of(
    part: Ints, number: Ints, first: Ints, objects: Objects, found: Detections, least: float
) -> Pairs:
    """Compare some detections with all objects of their images."""
    number = number[part]
    f = np.repeat(part, number)
    t = first[found.image[f]] + np.arange(len(f)) - np.repeat(np.cumsum(number) - number, number)
    overlap = box_overlap(found.box[f], objects.box[t], objects.crowd[t])
    return Pairs(f, t, overlap).where(overlap >= least)


def box_overlap(found: Floats, true: Floats, crowd: Bools) -> Floats:
    """Return the IoU of pairs of boxes (P, 4), x, y, width, height, rounded as pycocotools does.

    Args:
        found: detections.
        true: objects.
        crowd: (P,), where the shared area is divided by that of the detection instead.
    """
    low = np.maximum(found[:, :2], true[:, :2])
    high = np.minimum(found[:, 2:] + found[:, :2], true[:, 2:] + true[:, :2])
    side = (high - low).clip(0)
    shared = side[:, 0] * side[:, 1]
    area_found, area_true = found[:, 2] * found[:, 3], true[:, 2] * true[:, 3]
    union = np.where(crowd, area_found, area_found + area_true - shared)
    overlap: Floats = np.divide(shared, union, out=np.zeros(len(found)), where=shared > 0)
    return overlap


def match(data: EvaluationData, pairs: Pairs, overlaps: Floats = OVERLAPS) -> Matches:
    """Let detections, the best first, each find the object of its class that it overlaps most.

    An object is found once, a crowd any number of times by detections that find nothing else. Of
    equal overlaps the last object counts, as in pycocotools.

    Args:
        data: objects and detections.
        pairs: of :func:`find_pairs`, with every pair of the least of ``overlaps``.
        overlaps: (T,).
    """
    objects, found = data.objects, data.detections
    shape = (len(overlaps), len(found))
    true_of, ignored = np.full(shape, -1, np.int32), np.zeros(shape, np.bool_)
    found_by = np.full((len(overlaps), len(objects)), -1, np.int32)
    same = found.cls[pairs.found] == objects.cls[pairs.true]
    pairs = pairs.where(same & (pairs.overlap >= overlaps.min()))
    # Detections of one class and image have to wait for one another, all others do not.
    waiting, pair_of = np.unique(pairs.found, return_inverse=True)
    turns = rank_within(found.image[waiting] * data.num_classes + found.cls[waiting])
    turn = turns[pair_of]
    order = np.argsort(turn, kind="stable")
    borders = np.flatnonzero(np.diff(turn[order])) + 1
    for chosen in np.split(order, borders) if len(order) else []:
        f, t, overlap = pairs.found[chosen], pairs.true[chosen], pairs.overlap[chosen]
        crowd = objects.crowd[t]
        enough = overlap >= np.minimum(overlaps, 1 - 1e-10)[:, None]
        starts = np.flatnonzero(np.r_[True, f[1:] != f[:-1]])
        best = _last_best(overlap, enough & ~crowd & (found_by[:, t] < 0), starts)
        if crowd.any():
            best = np.where(best < 0, _last_best(overlap, enough & crowd, starts), best)
        level, column = np.nonzero(best >= 0)
        pair = best[level, column]
        true_of[level, f[pair]] = t[pair]
        ignored[level, f[pair]] = crowd[pair]
        single = ~crowd[pair]
        found_by[level[single], t[pair[single]]] = f[pair[single]]
    return Matches(true_of, ignored, found_by)


def _last_best(overlap: Floats, allowed: Bools, starts: Ints) -> Ints:
    """Return the last of the best allowed pairs (T, S) of each segment that starts at (S,), or -1.

    Args:
        overlap: (P,).
        allowed: (T, P).
        starts: (S,).
    """
    value = np.where(allowed, overlap, -1.0)
    best = np.maximum.reduceat(value, starts, axis=1)
    lengths = np.diff(np.r_[starts, len(overlap)])
    is_best = allowed & (value == np.repeat(best, lengths, axis=1))
    last: Ints = np.maximum.reduceat(np.where(is_best, np.arange(len(overlap)), -1), starts, axis=1)
    return last
