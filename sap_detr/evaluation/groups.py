"""AP of some of the images, and of some places in them."""

from __future__ import annotations

import numpy as np

from .curves import Ranking
from .dataset import EvaluationData, Floats, Ints
from .matching import Matches

# Least numbers of objects of the groups of images.
OBJECT_COUNTS = (1, 2, 5, 10, 20)
# The image in thirds: rows and columns.
GRID = 3


def mean_ap(ap: Floats) -> float:
    """Return the mean of AP (..., C) over classes that have objects, 0..1; NaN if none has."""
    there = ap[~np.isnan(ap)]
    return float(there.mean()) if len(there) else float("nan")


def ap_by_object_count(data: EvaluationData, matches: Matches) -> list[tuple[str, int, float]]:
    """Return AP of images with few and with many objects: name, number of images, AP (0..1)."""
    counted = ~data.objects.crowd
    count = np.bincount(data.objects.image[counted], minlength=data.num_images)
    group = np.searchsorted(OBJECT_COUNTS, count, side="right") - 1
    ranking = Ranking(data.detections.cls, matches.correct, matches.ignored, data.num_classes)
    rows = []
    for number, (least, after) in enumerate(
        zip(OBJECT_COUNTS, [*OBJECT_COUNTS[1:], None], strict=True)
    ):
        chosen = (group == number).astype(np.int64)
        ap = ranking.average_precision(data.count_objects(chosen), chosen[data.detections.image])
        name = f"{least} or more" if after is None else f"{least} to {after - 1}"
        rows.append((name if after != least + 1 else str(least), int(chosen.sum()), mean_ap(ap)))
    return rows


def ap_by_position(data: EvaluationData, matches: Matches) -> tuple[Ints, Floats]:
    """Return objects and AP by the third of the image that their centre lies in.

    Objects of other places, and the detections that have found them, do not count, nor do false
    detections there.

    Returns:
        Numbers of objects and AP (0..1; NaN without objects), both (3, 3), rows from the top.
    """
    objects, found = data.objects, data.detections
    true_cell = _cell(objects.box, data.sizes[objects.image])
    own_cell = _cell(found.box, data.sizes[found.image])
    cell = np.where(matches.true_of >= 0, np.r_[true_cell, -1][matches.true_of], own_cell)
    count, ap = np.zeros(GRID * GRID, np.int64), np.full(GRID * GRID, np.nan)
    for number in range(GRID * GRID):
        here = (true_cell == number) & ~objects.crowd
        count[number] = here.sum()
        ignored = matches.ignored | (cell != number)
        ranking = Ranking(found.cls, matches.correct & ~ignored, ignored, data.num_classes)
        positives = np.bincount(objects.cls[here], minlength=data.num_classes)
        ap[number] = mean_ap(ranking.average_precision(positives))
    return count.reshape(GRID, GRID), ap.reshape(GRID, GRID)


def _cell(box: Floats, size: Floats) -> Ints:
    """Return the number of the cell that the centre of a box (N, 4; XYWH) lies in."""
    centre = (box[:, :2] + box[:, 2:] / 2) / np.maximum(size, 1)
    column, row = (centre * GRID).astype(np.int64).clip(0, GRID - 1).T
    cell: Ints = row * GRID + column
    return cell
