"""Contact sheets: found and true boxes of many images in one picture."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from ..data.images import read_image
from ..data.pixels import FULL_RANGE, PixelRange
from ..data.standard_dict import objects
from .detections import box_arrays, class_name, draw_detections
from .layout import (
    GAP,
    INK,
    MUTED,
    WIDE_GAP,
    Picture,
    below,
    beside,
    flow,
    save_sheet,
    swatch,
    text_line,
)
from .palette import class_color, load_font
from .pixels import Pixels
from .predictor import check_finite

_LEGEND_CLASSES = 12


@dataclass(frozen=True)
class SheetRow:
    """One image of a sheet.

    Attributes:
        image: (H, W, 3), uint8 RGB.
        detections: found boxes, see :func:`draw_detections`.
        truth: true boxes; None if they are not known.
        caption: to stand below; lines that are too long are cut off.
    """

    image: Pixels
    detections: Instances
    truth: Instances | None = None
    caption: str = ""


def detection_sheet(
    rows: Sequence[SheetRow],
    out_png: str | os.PathLike[str],
    class_names: Sequence[str | None] | None = None,
    *,
    title: str,
    tile_width: int = 480,
) -> Path:
    """Draw images with their boxes into one picture, about as wide as high.

    Images are brought to one width, small ones enlarged, before boxes and labels are drawn. The
    truth, where it is known, is to the left of the detections.

    Args:
        rows: the images.
        out_png: file to write.
        class_names: by class index.
        title: above the images.
        tile_width: width of one image in pixels.

    Returns:
        The file.

    Raises:
        ValueError: if there are no rows, or one whose image is not an 8-bit RGB image.
    """
    if not rows:
        raise ValueError("a detection sheet needs at least one image")
    tiles = [draw_row(row, class_names, tile_width) for row in rows]
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    most = 4 * (tile_width + 4) // width
    columns = min(len(tiles), max(1, min(most, round(math.sqrt(len(tiles) * height / width)))))
    lines = [beside(tiles[i : i + columns], WIDE_GAP) for i in range(0, len(tiles), columns)]
    sheet_width = columns * (width + WIDE_GAP) - WIDE_GAP
    legend = _legend(rows, class_names, title, sheet_width)
    return save_sheet(below([below([legend, lines[0]], GAP), *lines[1:]], WIDE_GAP), out_png)


def validation_rows(
    model: nn.Module,
    dataset_dicts: Sequence[Mapping[str, Any]],
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
    num_images: int = 12,
    score_threshold: float = 0.5,
    pixel_range: PixelRange = FULL_RANGE,
) -> list[SheetRow]:
    """Run a model on images of a data set.

    Args:
        model: a Detectron2 model; it is left in the mode, training or evaluation, that it was in.
        dataset_dicts: standard dicts with annotations.
        mapper: maps a dict to the model's input, as for evaluation.
        num_images: how many images, taken at equal distances from ``dataset_dicts``.
        score_threshold: detections with lower scores are left out.
        pixel_range: how images of more than 8 bits are shown, best as the mapper reads them.

    Returns:
        What was found beside what is there.

    Raises:
        NonFiniteDetectionsError: if boxes or scores of the model are not finite.
    """
    places = np.linspace(0, len(dataset_dicts) - 1, min(num_images, len(dataset_dicts)))
    chosen = [dataset_dicts[i] for i in dict.fromkeys(places.round().astype(int).tolist())]
    rows = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for record in chosen:
                image = read_image(record["file_name"], pixel_range=pixel_range)
                inputs = {"height": image.shape[0], "width": image.shape[1], **mapper({**record})}
                instances = model([inputs])[0]["instances"]
                check_finite(instances)
                found = instances[instances.scores >= score_threshold].to("cpu")
                boxes = [
                    {key: annotation[key] for key in ("bbox", "bbox_mode", "category_id")}
                    for annotation in objects(record)
                ]
                truth = annotations_to_instances(boxes, image.shape[:2])
                name = Path(record["file_name"]).name
                caption = f"{name}: {len(truth)} true, {len(found)} detected"
                rows.append(SheetRow(image, found, truth, caption))
    finally:  # Detectron2's inference_context does not after an error
        model.train(was_training)
    return rows


def draw_row(
    row: SheetRow,
    class_names: Sequence[str | None] | None = None,
    tile_width: int = 480,
) -> Picture:
    """Draw one row of a sheet: one or two images with the caption below.

    The arguments are those of :func:`detection_sheet`.
    """
    draw = partial(draw_detections, row.image, class_names=class_names, width=tile_width)
    pictures = [] if row.truth is None else [draw(row.truth, labels="none")]
    pictures.append(draw(row.detections))
    tile = beside([Image.fromarray(picture) for picture in pictures], 4)
    lines = row.caption.splitlines()
    colors = [INK if len(lines) > 1 else MUTED, *[MUTED] * len(lines)]
    text = [
        text_line(line, load_font(14), color, tile.width)
        for line, color in zip(lines, colors, strict=False)
    ]
    return below([tile, *text])


def _legend(
    rows: Sequence[SheetRow],
    class_names: Sequence[str | None] | None,
    title: str,
    width: int,
) -> Picture:
    """Return the title, and the colours of the classes that occur most."""
    given = [boxes for row in rows for boxes in (row.detections, row.truth) if boxes is not None]
    counts = Counter(index for boxes in given for index in box_arrays(boxes)[1])
    entries = [text_line(title, load_font(15, bold=True), INK, width)]
    for index in sorted(index for index, _ in counts.most_common(_LEGEND_CLASSES)):
        name = text_line(class_name(class_names, index), load_font(15), INK, width - 22)
        entries.append(beside([swatch(class_color(index)), name], GAP))
    return flow(entries, width, WIDE_GAP)
