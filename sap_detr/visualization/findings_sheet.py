"""Contact sheets of findings in a data set: images with the boxes in question."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..data import BadImageError, Finding, Findings, read_image
from ..data.findings import Example, Severity
from ..data.pixels import FULL_RANGE, PixelRange
from .canvas import View
from .detections import draw_detections
from .layout import beside
from .palette import class_color
from .pixels import Pixels
from .sheet import SheetRow, detection_sheet

# Most examples of each kind, and altogether.
_MOST_OF_KIND, _MOST = 4, 32
_SIZE = (480, 360)  # of a tile's picture, width and height in pixels
_EMPTY = (228, 228, 228)
# Boxes that are smaller in the picture are shown enlarged in a corner of it.
_SMALL, _INSET = 24, 128
# How much is shown beyond the border of an image, for boxes that reach over it.
_BEYOND = 0.5
_CAPTION_LETTERS = 64
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_COLOR = 8  # red, in the palette of classes


def findings_sheet(
    findings: Sequence[Findings],
    out_png: str | os.PathLike[str],
    pixel_range: PixelRange = FULL_RANGE,
) -> Path | None:
    """Draw examples of everything that can be seen in an image; errors come first.

    Args:
        findings: what was found.
        out_png: file to write.
        pixel_range: how images of more than 8 bits are shown.

    Returns:
        The file; None if there is nothing to be seen, and no file was written.
    """
    ordered = [f for severity in _ORDER for found in findings for f in found.of(severity)]
    rows = [row for finding in ordered for row in _rows_of(finding, pixel_range)][:_MOST]
    if not rows:
        return None
    return detection_sheet(rows, out_png, tile_width=_SIZE[0], title="Findings in the data set")


def _rows_of(finding: Finding, pixel_range: PixelRange) -> list[SheetRow]:
    rows: list[SheetRow] = []
    for example in finding.examples:
        if len(rows) == _MOST_OF_KIND:
            break
        try:
            picture = draw_example(example, pixel_range)
        except BadImageError:
            continue
        if picture is not None:
            file = Path(example.file_names[0]).name
            text = f"{file}: {example.what}" if example.what else file
            lines = textwrap.wrap(text, _CAPTION_LETTERS)[:2]
            caption = "\n".join([f"{finding.kind.severity}: {finding.kind.title}", *lines])
            rows.append(SheetRow(picture, _in_color(np.zeros((0, 4))), caption=caption))
    return rows


def draw_example(example: Example, pixel_range: PixelRange = FULL_RANGE) -> Pixels | None:
    """Return the picture of a tile; None if the example has no image."""
    read = partial(read_image, pixel_range=pixel_range)
    if not example.file_names:
        return None
    if example.boxes:
        x, y, width, height = np.array(example.boxes, np.float64).T
        boxes = np.stack([x, y, x + width, y + height], 1)
        return _draw_boxes(read(example.file_names[0]), boxes)
    images = [read(file) for file in dict.fromkeys(example.file_names[:2])]
    size = (_SIZE[0] // len(images) - 2 * (len(images) - 1), _SIZE[1])
    views = [View.around((0, 0, 1, 1), image, size).show(image, _EMPTY) for image in images]
    return np.asarray(beside([Image.fromarray(view) for view in views], 4))


def _draw_boxes(image: Pixels, boxes: NDArray[np.float64]) -> Pixels:
    """Draw XYXY boxes (N, 4), with room around the image for those that reach over its border."""
    boxes = boxes / np.tile(image.shape[1::-1], 2)
    low = np.clip(boxes[:, :2].min(0), -_BEYOND, 0)
    high = np.clip(boxes[:, 2:].max(0), 1, 1 + _BEYOND)
    margin = 0.04 if low.any() or (high > 1).any() else 0.0
    view = View.around((*(low - margin), *(high + margin)), image, _SIZE, centred=True)
    picture = _draw_in_view(image, boxes, view)
    shown = view.to_pixels(boxes)
    if len(boxes) == 1 and (shown[:, 2:] - shown[:, :2]).max() < _SMALL:
        return _add_inset(picture, image, boxes[0], shown[0])
    return picture


def _draw_in_view(image: Pixels, boxes: NDArray[np.float64], view: View) -> Pixels:
    """Draw boxes (N, 4), XYXY in fractions of the image, into a view of it."""
    shown = _in_color(view.to_pixels(boxes))
    return draw_detections(view.show(image, _EMPTY), shown, labels="none")


def _in_color(boxes: NDArray[np.float64]) -> Instances:
    classes = torch.full((len(boxes),), _COLOR)
    return Instances(_SIZE[::-1], gt_boxes=Boxes(torch.from_numpy(boxes)), gt_classes=classes)


def _add_inset(
    picture: Pixels, image: Pixels, box: NDArray[np.float64], shown: NDArray[np.float64]
) -> Pixels:
    """Show what is around a small box enlarged, in the corner that is farthest from it.

    Args:
        picture: (H, W, 3).
        image: the image that it shows.
        box: XYXY in fractions of ``image``.
        shown: the same in pixels of ``picture``.
    """
    size = np.array(image.shape[1::-1])
    middle, reach = (box[:2] + box[2:]) / 2, max(6.0, 2 * ((box[2:] - box[:2]) * size).max()) / size
    view = View((*(middle - reach), *(middle + reach)), (_INSET, _INSET))
    inset = _draw_in_view(image, box[None], view)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    color = class_color(_COLOR)
    spot = (shown[:2] + shown[2:]) / 2
    right, bottom = spot[0] < canvas.width / 2, spot[1] < canvas.height / 2
    x = canvas.width - _INSET - 8 if right else 8
    y = canvas.height - _INSET - 8 if bottom else 8
    near = (x if right else x + _INSET, y if bottom else y + _INSET)
    draw.line((*spot, *near), fill=color, width=1)
    draw.rectangle((x - 3, y - 3, x + _INSET + 2, y + _INSET + 2), fill="white", outline=color)
    canvas.paste(Image.fromarray(inset), (x, y))
    return np.asarray(canvas)
