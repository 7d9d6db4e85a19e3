"""Draw boxes with their classes and scores into an image.

Detectron2's Visualizer is not used: it writes each label at the corner of its box, so that those of
close boxes cover each other, where here a label looks for the place at which it hides least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from detectron2.structures import Instances
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .palette import RGB, class_color, load_font, shorten, text_color_on
from .pixels import Pixels, check_image

Labels = Literal["full", "none"]
Corners = tuple[int, int, int, int]
Label = tuple[Corners, str, RGB]

_SMALLEST_FONT = 7


def draw_detections(
    image: Pixels,
    detections: Instances,
    class_names: Sequence[str | None] | None = None,
    *,
    score_threshold: float = 0.0,
    labels: Labels = "full",
    min_long_side: int = 0,
    width: int | None = None,
) -> Pixels:
    """Draw boxes in the colours of their classes.

    Lines and letters grow with the image. Boxes are cut off at the border; those that lie outside,
    or are not finite, are not drawn.

    Args:
        image: (H, W, 3), RGB; it is not changed.
        detections: boxes in pixels of ``image``: ``pred_boxes``, ``pred_classes`` and, where they
            are known, ``scores``; or those that are true, ``gt_boxes`` and ``gt_classes``.
        class_names: by class index; the index is written where there is no name.
        score_threshold: boxes with lower scores are left out.
        labels: what is written at the boxes: name and score, or nothing.
        min_long_side: smaller images are enlarged to this length of the long side, so that labels
            are readable.
        width: what the image is resized to instead.

    Returns:
        (H, W, 3), RGB.

    Raises:
        ValueError: if the image is not an 8-bit RGB image, or the boxes are none of these.
    """
    check_image(image)
    boxes, classes, scores = box_arrays(detections)
    canvas = Image.fromarray(np.ascontiguousarray(image))
    factor = width / canvas.width if width else max(1, min_long_side / max(canvas.size))
    if factor != 1:
        size = [max(1, round(factor * side)) for side in canvas.size]
        canvas = canvas.resize(
            size, Image.Resampling.LANCZOS if width else Image.Resampling.BICUBIC
        )
    visible: list[Label] = []
    for box, number, score in zip(factor * boxes, classes, scores, strict=True):
        corners = _corners_inside(box, canvas.size)
        # Scores of NaN, of boxes without one, are below no threshold.
        if corners is not None and not score < score_threshold:
            text = class_name(class_names, number) + ("" if np.isnan(score) else f" {score:.2f}")
            visible.append((corners, text, class_color(number)))
    draw = ImageDraw.Draw(canvas, "RGBA")
    for corners, _, color in reversed(visible):  # the best on top
        _draw_outline(draw, corners, color, line_width(canvas.size))
    if labels != "none":
        _write_labels(draw, canvas.size, visible)
    return np.asarray(canvas)


def box_arrays(found: Instances) -> tuple[NDArray[np.float64], list[int], NDArray[np.float64]]:
    """Return boxes (N, 4), classes and scores (N,), the best first; true boxes have scores of NaN.

    Raises:
        ValueError: there are no boxes or no classes.
    """
    for prefix in ("pred", "gt"):
        if found.has(f"{prefix}_boxes") and found.has(f"{prefix}_classes"):
            boxes = found.get(f"{prefix}_boxes").tensor.detach().cpu().double().numpy()
            classes = found.get(f"{prefix}_classes").cpu().numpy()
            scores = np.full(len(found), np.nan)
            if prefix == "pred" and found.has("scores"):
                scores = found.scores.detach().cpu().double().numpy()
            order = np.argsort(-scores, kind="stable")
            return boxes[order], classes[order].tolist(), scores[order]
    raise ValueError(
        "instances need pred_boxes and pred_classes, or gt_boxes and gt_classes; these have "
        f"{sorted(found.get_fields()) or 'nothing'}"
    )


def class_name(class_names: Sequence[str | None] | None, index: int) -> str:
    """Return the name of a class, or its index where it has none."""
    known = class_names is not None and 0 <= index < len(class_names)
    return (class_names[index] if known and class_names else None) or str(index)


def line_width(size: tuple[int, int]) -> int:
    """Width of an outline in an image of this (width, height), in pixels."""
    return max(2, round(max(size) / 300))


def font_size(size: tuple[int, int]) -> int:
    """Height of letters in an image of this (width, height), in pixels."""
    return int(np.clip(round((size[0] * size[1]) ** 0.5 / 46), 11, 40))


def _corners_inside(box: NDArray[np.float64], size: tuple[int, int]) -> Corners | None:
    """First and last column and row of a box's outline as x0, y0, x1, y1; None if not visible."""
    visible = np.isfinite(box).all() and (box[2:] > 0).all() and (box[:2] < size).all()
    if not visible or (box[2:] < box[:2]).any():
        return None
    last = np.array(size) - 1
    low = np.clip(box[:2].round(), 0, last)
    high = np.clip(box[2:].round() - 1, low, last)
    x0, y0, x1, y1 = map(int, (*low, *high))
    return x0, y0, x1, y1


def _draw_outline(draw: ImageDraw.ImageDraw, corners: Corners, color: RGB, width: int) -> None:
    """Draw an outline inside the corners, with a faint dark edge against light images."""
    x0, y0, x1, y1 = corners
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0, 90), width=1)
    if width > 2 and x1 - x0 > 2 * width and y1 - y0 > 2 * width:
        inner = (x0 + width, y0 + width, x1 - width, y1 - width)
        draw.rectangle(inner, outline=(0, 0, 0, 60), width=1)
    draw.rectangle(corners, outline=color, width=min(width, max(1, min(x1 - x0, y1 - y0) // 2)))


def _write_labels(
    draw: ImageDraw.ImageDraw, room: tuple[int, int], labels: Sequence[Label]
) -> None:
    """Write labels on plates of their boxes' colours, wholly inside an image (width, height).

    They go where they hide least: other labels first of all, then small boxes.
    """
    boxes = np.array([corners for corners, _, _ in labels]).reshape(-1, 4)
    taken = np.zeros((0, 4))
    for box, (_, text, color) in zip(boxes, labels, strict=True):
        for size in range(font_size(room), _SMALLEST_FONT - 1, -1):  # small enough to fit
            font, pad = load_font(size, bold=True), max(2, size // 5)
            height = sum(font.getmetrics()) + max(0, pad - 2)
            if font.getlength(text) + 2 * pad < room[0] and height + 2 < room[1]:
                break
        text = shorten(text, font, room[0] - 2 * pad - 1)
        width = math.ceil(font.getlength(text)) + 2 * pad
        plate = _best_plate(box, (width, height), room, boxes, taken)
        taken = np.vstack([taken, plate])
        x, y = plate[:2].tolist()
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        middle = (x + width / 2, y + height / 2)
        draw.text(middle, text, font=font, fill=text_color_on(color), anchor="mm")


def _best_plate(
    box: NDArray[np.int64],
    size: tuple[int, int],
    room: tuple[int, int],
    boxes: NDArray[np.int64],
    taken: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the plate of a label: above the box, or else where it is in the way least."""
    (x0, y0, x1, y1), (width, height) = box, size
    left, right = x0, x1 + 1 - width
    wanted = [
        (left, y0 - height),
        (left, y0),
        (left, y1 + 1),
        (right, y0 - height),
        (left, y1 + 1 - height),
        (right, y1 + 1),
        (right, y0),
        (right, y1 + 1 - height),
        (x1 + 1, y0),
        (x0 - width, y0),
    ]
    places = np.clip(wanted, 0, np.maximum(np.subtract(room, size), 0))
    plates = np.hstack([places, places + size])
    hidden = _overlaps(plates, taken).sum(1) / (width * height)
    # To cover a corner of a box does no harm.
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
    covered = (_overlaps(plates, boxes) / areas - 0.25).clip(0).sum(1)
    moved = np.abs(places - wanted).sum(1)
    cost = 20 * hidden + 8 * covered + 0.12 * np.arange(len(wanted)) + 0.01 * moved
    best: NDArray[np.int64] = plates[cost.argmin()]
    return best


def _overlaps(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Shared areas (N, M) of XYXY rectangles (N, 4) with others (M, 4)."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    shared: NDArray[np.float64] = (high - low).clip(0).prod(-1)
    return shared
