"""Checks of boxes: that they are boxes, that they lie in their image, and that they look meant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

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


def clip_box(
    box: list[float], image_width: int, image_height: int
) -> tuple[list[float] | None, Kind | None]:
    """Clip an XYWH box to its image.

    Returns:
        The box, None if no area is left; and what was repaired, if it is worth telling.
    """
    x, y, width, height = box
    if width == 0 or height == 0:
        return None, Kind.BOX_EMPTY
    x0, y0 = max(x, 0.0), max(y, 0.0)
    x1, y1 = min(x + width, float(image_width)), min(y + height, float(image_height))
    if x1 <= x0 or y1 <= y0:
        return None, Kind.BOX_OUTSIDE
    over = max(x0 - x, y0 - y, x + width - x1, y + height - y1)
    if over == 0:
        return box, None
    clipped = [x0, y0, x1 - x0, y1 - y0]
    return clipped, Kind.BOX_CLIPPED if over > _CLIP_TOLERANCE else None


def inspect_boxes(
    dicts: Sequence[StandardDict], findings: Findings, num_queries: int | None = None
) -> None:
    """Note tiny boxes, boxes that an image has twice, and images with too many of them.

    Args:
        dicts: standard dicts.
        findings: gets them.
        num_queries: of the model; None if it is not known.
    """
    for record in dicts:
        seen: dict[tuple[int, ...], int] = {}
        boxes = []
        for annotation in objects(record):
            box = x, y, width, height = xywh(annotation)
            boxes.append(box)
            kinds = [Kind.TINY_BOX] if 0 < min(width, height) < TINY_SIDE else []
            place, category = tuple(round(v / _SAME_BOX) for v in box), annotation["category_id"]
            if place in seen:
                same = seen[place] == category
                kinds.append(Kind.SAME_BOX if same else Kind.SAME_BOX_OTHER_CLASS)
            seen.setdefault(place, category)
            for kind in kinds:
                what = f"{width:.4g}x{height:.4g} pixels (width x height) at {x:.4g}, {y:.4g}"
                findings.add(kind, name_image(record), what, (str(record["file_name"]),), (box,))
        if num_queries is not None and len(boxes) > num_queries:
            what = f"{len(boxes)} objects, {num_queries} queries"
            file_names = (str(record["file_name"]),)
            findings.add(Kind.TOO_MANY_OBJECTS, name_image(record), what, file_names, tuple(boxes))
