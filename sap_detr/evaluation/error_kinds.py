"""What kinds of error there are, and what each costs in AP.

The kinds and their costs are those of Bolya et al., "TIDE: A General Toolbox for Identifying Object
Detection Errors" (ECCV 2020). A detection that has found nothing (at an overlap of 0.5) is an error
of, the first that fits:

localisation: its best overlap with an object of its class is 0.1 or more, below 0.5;
classification: its best overlap with an object of another class is 0.5 or more;
duplicate: it overlaps an object of its class by 0.5 or more, which another one has found;
both: its best overlap with an object of another class is 0.1 or more;
background: it overlaps every object by less than 0.1.

An object is missed if nothing has found it, and no error of localisation or classification is aimed
at it. The cost of a kind is by how much AP50 would rise without it: errors of localisation and
classification become the find of the object they are aimed at, if it is not found and no better one
of them is (else they are left out); the other detections are left out; missed objects are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .curves import Ranking
from .dataset import Bools, EvaluationData, Floats, Ints
from .matching import Matches, Pairs

FOUND_FROM = 0.5  # an overlap like this is a find
NEAR_FROM = 0.1  # one below is none

# Numbers of the kinds are their places here; objects are missed, detections the others.
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CORRECT, IGNORED = -1, -2
_CLS, _LOC, _BOTH, _DUPLICATE, _BACKGROUND, _MISSED = range(len(KINDS))


@dataclass(frozen=True)
class ErrorKinds:
    """The errors of a data set.

    Attributes:
        kind: (M,), of each detection: a number of ``KINDS``, CORRECT or IGNORED.
        aim: (M,), the object that an error of classification or localisation is aimed at, else -1.
        missed: (N,), whether an object is missed.
        cost: (K, C), how much AP50 of a class (0..1) each kind costs; NaN without objects.
    """

    kind: NDArray[np.int8]
    aim: Ints
    missed: Bools
    cost: Floats

    def counts(self, cls: Ints, true_cls: Ints, num_classes: int) -> Ints:
        """Return how many errors of each kind there are per class (K, C).

        Args:
            cls: (M,), classes of the detections.
            true_cls: (N,), classes of the objects, for those that are missed.
            num_classes: C.
        """
        rows = [np.bincount(cls[self.kind == k], minlength=num_classes) for k in range(_MISSED)]
        rows.append(np.bincount(true_cls[self.missed], minlength=num_classes))
        return np.array(rows)


def find_errors(data: EvaluationData, pairs: Pairs, matches: Matches) -> ErrorKinds:
    """Sort detections and objects into kinds, and find out what these cost.

    Args:
        data: objects and detections.
        pairs: of overlaps from ``NEAR_FROM`` on.
        matches: whose first level is that of ``FOUND_FROM``.
    """
    objects, found = data.objects, data.detections
    correct, ignored = matches.correct[0], matches.ignored[0]
    kind, aim = _sort_detections(data, pairs.where(~objects.crowd[pairs.true]), correct, ignored)
    aimed_at = np.zeros(len(objects), np.bool_)
    aimed_at[aim[aim >= 0]] = True
    missed = (matches.found_by[0] < 0) & ~objects.crowd & ~aimed_at
    positives = data.count_objects()

    def ap50(cls: Ints, right: Bools, kept: Bools, positives: Ints = positives) -> Floats:
        ranking = Ranking(cls[kept], right[None, kept], None, data.num_classes)
        ap: Floats = ranking.average_precision(positives)[0]
        return ap

    base = ap50(found.cls, correct, ~ignored)
    cost = np.zeros((len(KINDS), data.num_classes))
    for number in range(_MISSED):
        is_kind, becomes_find = kind == number, np.zeros_like(correct)
        if number in (_CLS, _LOC):
            becomes_find = _first_of_each(is_kind, aim)
            becomes_find[becomes_find] = matches.found_by[0][aim[becomes_find]] < 0
        cls = found.cls.copy()
        cls[becomes_find] = objects.cls[aim[becomes_find]]
        kept = ~ignored & (~is_kind | becomes_find)
        cost[number] = ap50(cls, correct | becomes_find, kept) - base
    without = positives - np.bincount(objects.cls[missed], minlength=data.num_classes)
    # A class of which nothing is found has no curve to stretch.
    cost[_MISSED] = np.nan_to_num(ap50(found.cls, correct, ~ignored, without)) - base
    return ErrorKinds(kind, aim, missed, cost)


def _sort_detections(
    data: EvaluationData, pairs: Pairs, correct: Bools, ignored: Bools
) -> tuple[NDArray[np.int8], Ints]:
    """Return kind (M,) and aim (M,) of the detections; ``pairs`` are those with single objects."""
    found = data.detections
    same = found.cls[pairs.found] == data.objects.cls[pairs.true]
    own, own_object = pairs.where(same).best(len(found))
    other, other_object = pairs.where(~same).best(len(found))
    conditions = [
        ignored,
        correct,
        (own >= NEAR_FROM) & (own < FOUND_FROM),
        other >= FOUND_FROM,
        own >= FOUND_FROM,
        other >= NEAR_FROM,
    ]
    numbers = [IGNORED, CORRECT, _LOC, _CLS, _DUPLICATE, _BOTH]
    kind = np.select(conditions, numbers, _BACKGROUND).astype(np.int8)
    aim = np.select([kind == _LOC, kind == _CLS], [own_object, other_object], -1)
    return kind, aim


def _first_of_each(chosen: Bools, group: Ints) -> Bools:
    """Return which of the chosen elements are the first of their group (M,)."""
    places = np.flatnonzero(chosen)
    _, first = np.unique(group[places], return_index=True)
    result = np.zeros(len(chosen), np.bool_)
    result[places[first]] = True
    return result
