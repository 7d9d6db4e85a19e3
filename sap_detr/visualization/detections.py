"""Draw boxes with their classes and scores into an image.

Detectron2's Visualizer is not used: it writes each label at the corner of its box, so that those of
close boxes cover each other, where here a label looks for the place at which it hides least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from detectron2.structures import BoxMode, Instances
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .palette import RGB, class_color, load_font, shorten, text_color_on
from .pixels import Pixels, check_image

Labels = Literal["full", "none"]

_SMALLEST_FONT = 7


@dataclass(frozen=True)
class BoxSet:
    """Boxes of one image, found or true.

    Attributes:
        boxes: (N, 4), XYXY in pixels.
        classes: (N,), class indices.
        scores: (N,), 0..1; None for ground truth.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None

    @classmethod
    def from_instances(cls, instances: Instances) -> BoxSet:
        """From ``pred_boxes``, ``pred_classes`` and ``scores``, or ``gt_boxes`` and ``gt_classes``.

        Raises:
            ValueError: if the instances have neither.
        """
        for prefix in ("pred", "gt"):
            if instances.has(f"{prefix}_boxes") and instances.has(f"{prefix}_classes"):
                boxes = instances.get(f"{prefix}_boxes").tensor.detach().cpu().double().numpy()
                classes = instances.get(f"{prefix}_classes").detach().cpu().long().numpy()
                scores = None
                if prefix == "pred" and instances.has("scores"):
                    scores = instances.scores.detach().cpu().double().numpy()
                return cls(boxes.reshape(-1, 4), classes, scores)
        raise ValueError(
            "instances need pred_boxes and pred_classes, or gt_boxes and gt_classes; these have "
            f"{sorted(instances.get_fields()) or 'nothing'}"
        )

    @classmethod
    def from_annotations(cls, annotations: Iterable[Mapping[str, Any]]) -> BoxSet:
        """From the ``annotations`` of a standard dataset dict; crowds are left out."""
        objects = [a for a in annotations if not a.get("iscrowd", 0)]
        boxes = [
            BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects
        ]
        return cls(
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array([a["category_id"] for a in objects], np.int64),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, score_threshold: float) -> BoxSet:
        """Return the boxes of this score or more, best first; all without scores."""
        if self.scores is None:
            return self
        order = np.argsort(-self.scores, kind="stable")
        order = order[self.scores[order] >= score_threshold]
        return BoxSet(self.boxes[order], self.classes[order], self.scores[order])

    def scaled(self, factor: float) -> BoxSet:
        """Return the boxes in an image that is this much larger."""
        return BoxSet(self.boxes * factor, self.classes, self.scores)


def draw_detections(
    image: Pixels,
    detections: Instances | BoxSet,
    class_names: Sequence[str | None] | None = None,
    *,
    score_threshold: float = 0.0,
    labels: Labels = "full",
    min_long_side: int = 0,
) -> Pixels:
    """Draw boxes in the colours of their classes.

    Lines and letters grow with the image. Boxes are cut off at the border; those that lie outside,
    or are not finite, are not drawn.

    Args:
        image: (H, W, 3), RGB; it is not changed.
        detections: found or true boxes, in pixels of ``image``.
        class_names: by class index; the index is written where there is no name.
        score_threshold: boxes with lower scores are left out.
        labels: what is written at the boxes: name and score, or nothing.
        min_long_side: smaller images are enlarged to this length of the long side, so that labels
            are readable.

    Returns:
        (H, W, 3), RGB; larger than ``image`` only if it was enlarged.

    Raises:
        ValueError: if the image is not an 8-bit RGB image.
    """
    check_image(image)
    if isinstance(detections, Instances):
        detections = BoxSet.from_instances(detections)
    shown = detections.select(score_threshold)
    canvas = Image.fromarray(np.ascontiguousarray(image))
    factor = min_long_side / max(canvas.size)
    if factor > 1:
        size = (max(1, round(canvas.width * factor)), max(1, round(canvas.height * factor)))
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
        shown = shown.scaled(factor)

    draw = ImageDraw.Draw(canvas, "RGBA")
    width = line_width(canvas.size)
    drawn = [(i, _corners_inside(box, canvas.size)) for i, box in enumerate(shown.boxes)]
    visible = [(i, corners) for i, corners in drawn if corners is not None]
    for i, corners in reversed(visible):  # the best on top
        _draw_outline(draw, corners, class_color(int(shown.classes[i])), width)
    if labels != "none":
        labeler = _Labeler(draw, canvas.size, [corners for _, corners in visible])
        for i, corners in visible:
            number = int(shown.classes[i])
            score = "" if shown.scores is None else f" {shown.scores[i]:.2f}"
            labeler.draw(class_name(class_names, number) + score, corners, class_color(number))
    return np.asarray(canvas)


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


def _corners_inside(
    box: NDArray[np.float64], size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """First and last column and row of a box's outline as x0, y0, x1, y1; None if not visible."""
    if not np.isfinite(box).all():
        return None
    x0, y0, x1, y1 = box
    if x1 <= 0 or y1 <= 0 or x0 >= size[0] or y0 >= size[1] or x1 < x0 or y1 < y0:
        return None
    left, top = max(0, round(x0)), max(0, round(y0))
    right, bottom = min(size[0] - 1, round(x1) - 1), min(size[1] - 1, round(y1) - 1)
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return left, top, max(left, right), max(top, bottom)


def _draw_outline(
    draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], color: RGB, width: int
) -> None:
    """Draw an outline inside the corners, with a faint dark edge against light images."""
    x0, y0, x1, y1 = corners
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0, 90), width=1)
    if width > 2 and x1 - x0 > 2 * width and y1 - y0 > 2 * width:
        inner = (x0 + width, y0 + width, x1 - width, y1 - width)
        draw.rectangle(inner, outline=(0, 0, 0, 60), width=1)
    draw.rectangle(corners, outline=color, width=min(width, max(1, min(x1 - x0, y1 - y0) // 2)))


class _Labeler:
    """Writes labels where they hide least: other labels first of all, then small boxes.

    Args:
        draw: of the image.
        size: the image's (width, height).
        boxes: corners of all boxes.
    """

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        size: tuple[int, int],
        boxes: Sequence[tuple[int, int, int, int]],
    ) -> None:
        self._draw = draw
        self._size = size
        self._boxes = np.array(boxes, np.float64).reshape(-1, 4)
        self._areas = (self._boxes[:, 2:] - self._boxes[:, :2] + 1).prod(1)
        self._taken = np.zeros((0, 4))

    def draw(self, text: str, corners: tuple[int, int, int, int], color: RGB) -> None:
        """Write one label on a plate of the box's colour, wholly inside the image."""
        room_x, room_y = self._size
        for size in range(font_size(self._size), _SMALLEST_FONT - 1, -1):  # small enough to fit
            font, pad = load_font(size, bold=True), max(2, size // 5)
            height = sum(font.getmetrics()) + max(0, pad - 2)
            if font.getlength(text) + 2 * pad < room_x and height + 2 < room_y:
                break
        text = shorten(text, font, room_x - 2 * pad - 1)
        width = math.ceil(font.getlength(text)) + 2 * pad
        x, y = self._best_place(corners, width, height)
        self._taken = np.append(self._taken, [(x, y, x + width, y + height)], axis=0)
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        middle = (x + width / 2, y + height / 2)
        self._draw.text(middle, text, font=font, fill=text_color_on(color), anchor="mm")

    def _best_place(
        self, corners: tuple[int, int, int, int], width: int, height: int
    ) -> tuple[int, int]:
        """Upper left corner of a label: above the box, or else where it is in the way least."""
        x0, y0, x1, y1 = corners
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
        size = np.array([width, height])
        places = np.clip(wanted, 0, np.maximum(np.array(self._size) - size, 0))
        plates = np.hstack([places, places + size])
        hidden = _overlaps(plates, self._taken).sum(1) / size.prod()
        # To cover a corner of a box does no harm.
        covered = (_overlaps(plates, self._boxes) / self._areas - 0.25).clip(0).sum(1)
        moved = np.abs(places - wanted).sum(1)
        cost = 20 * hidden + 8 * covered + 0.12 * np.arange(len(wanted)) + 0.01 * moved
        x, y = places[cost.argmin()].tolist()
        return x, y


def _overlaps(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Shared areas (N, M) of XYXY rectangles (N, 4) with others (M, 4)."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    shared: NDArray[np.float64] = (high - low).clip(0).prod(-1)
    return shared
