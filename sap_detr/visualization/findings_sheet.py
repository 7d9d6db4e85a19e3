"""Contact sheets of findings in a data set: images with the boxes in question."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..data import BadImageError, Finding, Findings, read_image
from ..data.findings import Example, Severity
from .detections import BoxSet, draw_detections
from .layout import beside
from .palette import class_color
from .pixels import Pixels
from .sheet import SheetRow, detection_sheet

_SIZE = (480, 360)  # of a tile's picture, width and height in pixels
_EMPTY = (228, 228, 228)
# Boxes that are smaller in the picture are shown enlarged in a corner of it.
_SMALL, _INSET = 24, 128
# How much is shown beyond the border of an image, for boxes that reach over it.
_BEYOND = 0.5
_CAPTION_LETTERS = 64
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_COLOR = 8  # red, in the palette of classes

_NO_BOXES = BoxSet(np.zeros((0, 4)), np.zeros(0, np.int64))


def findings_sheet(
    findings: Sequence[Findings],
    out_png: str | os.PathLike[str],
    per_kind: int = 4,
    most: int = 32,
) -> Path | None:
    """Draw examples of everything that can be seen in an image; errors come first.

    Args:
        findings: what was found.
        out_png: file to write.
        per_kind: most examples of each kind.
        most: most examples altogether.

    Returns:
        The file; None if there is nothing to be seen, and no file was written.
    """
    ordered = [f for severity in _ORDER for found in findings for f in found.of(severity)]
    rows = [row for finding in ordered for row in _rows_of(finding, per_kind)][:most]
    if not rows:
        return None
    columns = min(4, max(1, round(len(rows) ** 0.5)))
    return detection_sheet(
        rows, out_png, tile_width=_SIZE[0], columns=columns, title="Findings in the data set"
    )


def _rows_of(finding: Finding, most: int) -> list[SheetRow]:
    rows: list[SheetRow] = []
    for example in finding.examples:
        if len(rows) == most:
            break
        try:
            picture = draw_example(example)
        except BadImageError:
            continue
        if picture is not None:
            file = Path(example.file_names[0]).name
            text = f"{file}: {example.what}" if example.what else file
            lines = textwrap.wrap(text, _CAPTION_LETTERS)[:2]
            caption = "\n".join([f"{finding.kind.severity}: {finding.kind.title}", *lines])
            rows.append(SheetRow(picture, _NO_BOXES, caption=caption))
    return rows


def draw_example(example: Example) -> Pixels | None:
    """Return the picture of a tile; None if the example has no image."""
    if not example.file_names:
        return None
    if example.boxes:
        x, y, width, height = np.array(example.boxes, np.float64).T
        boxes = np.stack([x, y, x + width, y + height], 1)
        return _draw_boxes(read_image(example.file_names[0]), boxes)
    files = dict.fromkeys(example.file_names[:2])
    size = (_SIZE[0] // len(files) - 2 * (len(files) - 1), _SIZE[1])
    return np.asarray(beside([_fit(read_image(file), size)[0] for file in files], 4))


def _fit(image: Pixels, size: tuple[int, int]) -> tuple[Image.Image, float, tuple[int, int]]:
    """Return an image in the middle of a grey field; also its scale, and where its corner lies."""
    height, width = image.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    corner = (size[0] - new[0]) // 2, (size[1] - new[1]) // 2
    canvas = Image.new("RGB", size, _EMPTY)
    canvas.paste(Image.fromarray(image).resize(new, Image.Resampling.LANCZOS), corner)
    return canvas, scale, corner


def _draw_boxes(image: Pixels, boxes: NDArray[np.float64]) -> Pixels:
    """Draw XYXY boxes (N, 4), with room around the image for those that reach over its border."""
    height, width = image.shape[:2]
    frame = np.array([0, 0, width, height])
    beyond = _BEYOND * np.array([width, height])
    low = np.floor(np.clip(boxes[:, :2].min(0), -beyond, 0)).astype(int)
    high = np.ceil(np.clip(boxes[:, 2:].max(0), frame[2:], frame[2:] + beyond)).astype(int)
    if low.any() or (high > frame[2:]).any():
        margin = 0.04 * np.array([width, height])
        low, high = (low - margin).astype(int), (high + margin).astype(int)
        room = np.full((*(high - low)[::-1], 3), _EMPTY, np.uint8)
        room[-low[1] : height - low[1], -low[0] : width - low[0]] = image
        image, boxes = room, boxes - np.tile(low, 2)
    canvas, scale, corner = _fit(image, _SIZE)
    shown = boxes * scale + np.tile(corner, 2)
    drawn = draw_detections(np.asarray(canvas), _as_set(shown), labels="none")
    sides = shown[:, 2:] - shown[:, :2]
    if len(boxes) == 1 and sides.max() < _SMALL:
        return _add_inset(drawn, image, boxes[0], shown[0])
    return drawn


def _as_set(boxes: NDArray[np.float64]) -> BoxSet:
    return BoxSet(boxes, np.full(len(boxes), _COLOR, np.int64))


def _add_inset(
    picture: Pixels, image: Pixels, box: NDArray[np.float64], shown: NDArray[np.float64]
) -> Pixels:
    """Show what is around a small box enlarged, in the corner that is farthest from it.

    Args:
        picture: (H, W, 3).
        image: the image that it shows.
        box: XYXY in pixels of ``image``.
        shown: the same in ``picture``.
    """
    centre = (box[:2] + box[2:]) / 2
    reach = max(6.0, 2 * (box[2:] - box[:2]).max())
    low = np.round(centre - reach).astype(int)
    side = round(2 * reach)
    field = Image.new("RGB", (side, side), _EMPTY)
    field.paste(Image.fromarray(image), (-low[0], -low[1]))
    field = field.resize((_INSET, _INSET), Image.Resampling.NEAREST)
    scale = _INSET / side
    inset = draw_detections(
        np.asarray(field), _as_set((box - np.tile(low, 2))[None] * scale), labels="none"
    )
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
