"""Checks of boxes: that they are boxes, that they lie in their image, and that they look meant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from ..text import shorten
from .annotation_file import as_float
from .findings import Findings, Kind
from .standard_dict import StandardDict, name_image, objects, xywh

# Rounding in annotation files puts boxes over the border by less than this (pixels); it isn't worth
# a warning.
_CLIP_TOLERANCE = 0.05
# Boxes with a shorter side (pixels) are hard to see, and most often a slip of the mouse.
TINY_SIDE = 2.0
# Boxes are the same if all their numbers differ by less than about this (pixels).
_SAME_BOX = 0.01
# Of an image in which boxes of a whole set can't all lie in the first pixel.
_MORE_THAN_ONE_PIXEL = 16
# Corners taken for sizes reach over the border by more than this (pixels), in that share of boxes.
_OVER, _OFTEN = 1.0, 0.1


class Fault(Exception):
    """What is wrong with one entry: the kind, and this one in words."""

    def __init__(self, kind: Kind, what: str) -> None:
        super().__init__(kind, what)
        self.kind = kind
        self.what = what


def check_box(box: Any, mode: BoxMode = BoxMode.XYWH_ABS) -> list[float]:
    """Return the four finite numbers of a box that has no negative size.

    Raises:
        Fault: if it is none.
    """
    if box is None:
        raise Fault(Kind.BOX_NOT_NUMBERS, "bbox is missing")
    values = [as_float(v) for v in box] if isinstance(box, (list, tuple, np.ndarray)) else []
    numbers = [v for v in values if v is not None]
    if len(values) != 4 or len(numbers) != 4:
        raise Fault(Kind.BOX_NOT_NUMBERS, f"bbox {shorten(box)} is not four numbers")
    if not all(map(math.isfinite, numbers)):
        raise Fault(Kind.BOX_NOT_FINITE, f"bbox {shorten(box)} is not finite")
    x, y, width, height = numbers
    if mode == BoxMode.XYXY_ABS:
        width, height = width - x, height - y
    if width < 0 or height < 0:
        raise Fault(Kind.BOX_NEGATIVE, f"bbox {shorten(box)} has a negative width or height")
    return numbers


def clip_boxes(
    boxes: NDArray[np.float64], image_sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[int, Kind]]:
    """Clip XYWH boxes to their images.

    Args:
        boxes: (N, 4).
        image_sizes: (N, 2), width and height of each one's image.

    Returns:
        (N, 4), without meaning where no area is left; and what was repaired and is worth telling,
        by place. Boxes without area are ``BOX_EMPTY`` or ``BOX_OUTSIDE`` in it.
    """
    start, size = boxes[:, :2], boxes[:, 2:]
    low, high = np.maximum(start, 0), np.minimum(start + size, image_sizes)
    over = np.maximum(low - start, start + size - high).max(1, initial=0)
    empty, outside = np.any(size == 0, axis=1), np.any(high <= low, axis=1)
    clipped = np.where((over > 0)[:, None], np.hstack([low, high - low]), boxes)
    repaired: dict[int, Kind] = {}
    for place in np.flatnonzero(empty | outside | (over > _CLIP_TOLERANCE)).tolist():
        kind = Kind.BOX_EMPTY if empty[place] else Kind.BOX_CLIPPED
        repaired[place] = Kind.BOX_OUTSIDE if outside[place] and not empty[place] else kind
    return clipped, repaired


def suspect_form(
    boxes: NDArray[np.float64], image_sizes: NDArray[np.float64], findings: Findings
) -> bool:
    """Note boxes that are probably no XYWH boxes in pixels, judged by all of them together.

    Args:
        boxes: (N, 4), as annotated.
        image_sizes: (N, 2), width and height of each one's image; 0 where they are not known.
        findings: gets it.

    Returns:
        Whether they are: what is wrong with single boxes then follows from that.
    """
    count = len(boxes)
    if not count or not boxes.any() or (image_sizes == 0).any():
        return False
    low, high = boxes.min(), boxes.max()
    if low >= 0 and high <= 1 and image_sizes.prod(1).min() >= _MORE_THAN_ONE_PIXEL:
        what = f"all numbers of the boxes lie in {low:.4g} to {high:.4g}"
        findings.add(Kind.FRACTIONS, "", what, count=count)
        return True
    start, size = boxes[:, :2], boxes[:, 2:]
    over = (start + size > image_sizes + _OVER).any(1).mean()
    if (size > start).all() and (size <= image_sizes + _OVER).all() and over >= _OFTEN:
        what = "the third and fourth numbers are always larger than the first and second, and "
        what += f"{over:.0%} of the boxes would reach over the border"
        findings.add(Kind.CORNERS, "", what, count=count)
        return True
    return False


def inspect_boxes(
    dicts: Sequence[StandardDict], findings: Findings, num_queries: int | None = None
) -> None:
    """Note tiny boxes, boxes that an image has twice, and images with too many of them.

    Args:
        dicts: standard dicts.
        findings: gets them.
        num_queries: of the model; None if it is not known.
    """
    crowded: list[tuple[StandardDict, tuple[tuple[float, ...], ...]]] = []
    for record in dicts:
        seen: dict[tuple[int, ...], int] = {}
        boxes = []
        for annotation in objects(record):
            box = x, y, width, height = xywh(annotation)
            boxes.append(box)
            tiny = 0 < min(width, height) < TINY_SIDE and Kind.FRACTIONS not in findings
            kinds = [Kind.TINY_BOX] if tiny else []
            place, category = tuple(round(v / _SAME_BOX) for v in box), annotation["category_id"]
            if place in seen:
                same = seen[place] == category
                kinds.append(Kind.SAME_BOX if same else Kind.SAME_BOX_OTHER_CLASS)
            seen.setdefault(place, category)
            for kind in kinds:
                what = f"{width:.4g}x{height:.4g} pixels (width x height) at {x:.4g}, {y:.4g}"
                findings.add(kind, name_image(record), what, (str(record["file_name"]),), (box,))
        if num_queries is not None and len(boxes) > num_queries:
            crowded.append((record, tuple(boxes)))
    if num_queries is None or not crowded:
        return
    objects_of = [len(boxes) for _, boxes in crowded]
    what = (
        f"they have {sum(objects_of)} objects, up to {max(objects_of)} in one image, of which the "
    )
    what += f"{num_queries} queries must miss {sum(objects_of) - num_queries * len(crowded)}"
    findings.add(Kind.TOO_MANY_OBJECTS, "", what, count=0)
    for record, shown in crowded:
        what = f"{len(shown)} objects, {num_queries} queries"
        file_names = (str(record["file_name"]),)
        findings.add(Kind.TOO_MANY_OBJECTS, name_image(record), what, file_names, shown)
