"""Which class is taken for which: a matrix for every threshold of the scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dataset import EvaluationData, Floats, Ints
from .error_kinds import FOUND_FROM
from .matching import Matches, Pairs


@dataclass(frozen=True)
class Confusion:
    """What stands for each object, whatever the threshold.

    An object is found if a detection of its class has found it (at an overlap of 0.5) whose score
    is not below the threshold. Else it is taken for the class of the best detection that has found
    nothing and overlaps it by 0.5 or more, and no object of another class more than it. Else it is
    missed. Detections that stand for no object are false.

    Attributes:
        found_score: (N,), score of the detection that has found the object; -1 for none.
        taken_score: (N,), score of the detection of another class that stands for it; -1 for none.
        taken_class: (N,), class of that one; -1 for none.
    """

    found_score: Floats
    taken_score: Floats
    taken_class: Ints


def find_confusion(data: EvaluationData, pairs: Pairs, matches: Matches) -> Confusion:
    """Find out which class each object is taken for.

    Args:
        data: objects and detections.
        pairs: with all those of an overlap of ``FOUND_FROM``.
        matches: whose first level is that of ``FOUND_FROM``.
    """
    objects, found = data.objects, data.detections
    found_by = matches.found_by[0]
    found_score = np.where(found_by >= 0, np.r_[found.score, -1][found_by], -1.0)
    idle = (matches.true_of[0] < 0)[pairs.found]
    other = found.cls[pairs.found] != objects.cls[pairs.true]
    single = ~objects.crowd[pairs.true]
    _, aim = pairs.where(idle & other & single & (pairs.overlap >= FOUND_FROM)).best(len(found))
    places = np.flatnonzero(aim >= 0)
    taken, first = np.unique(aim[places], return_index=True)  # the best come first
    taken_score, taken_class = np.full(len(objects), -1.0), np.full(len(objects), -1)
    taken_score[taken] = found.score[places[first]]
    taken_class[taken] = found.cls[places[first]]
    return Confusion(found_score, taken_score, taken_class)


def confusion_matrix(
    data: EvaluationData, matches: Matches, confusion: Confusion, threshold: float
) -> Ints:
    """Count what stands for what at a threshold.

    Returns:
        (C + 1, C + 1): rows are true classes, columns found ones. The last row counts false
        detections by their class, the last column missed objects. Rows sum up to the objects,
        columns to the detections, but for what lies in crowds.
    """
    number = data.num_classes
    counted = ~data.objects.crowd
    true = data.objects.cls[counted]
    is_found = confusion.found_score[counted] >= threshold
    is_taken = ~is_found & (confusion.taken_score[counted] >= threshold)
    column = np.select([is_found, is_taken], [true, confusion.taken_class[counted]], number)
    matrix = np.bincount(true * (number + 1) + column, minlength=(number + 1) ** 2)
    matrix = matrix.reshape(number + 1, number + 1)
    shown = (data.detections.score >= threshold) & ~matches.ignored[0]
    detections = np.bincount(data.detections.cls[shown], minlength=number)
    matrix[number, :number] = detections - matrix[:number, :number].sum(0)
    return matrix
