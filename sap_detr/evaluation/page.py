"""The page of a report: one file with everything in it, which asks no network for anything."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data import BadImageError, PixelRange, read_image
from .dataset import Floats, Ints
from .error_kinds import KINDS
from .report import Evaluation, without_nan

# The page stays below 10 MB: the best detections are in it, of 5 bytes each, and small pictures.
MOST_DETECTIONS = 600_000
PICTURE_SIDE = 520
MOST_BOXES = 150  # of a picture
# Scores in the page are whole numbers, so that its thresholds are exact.
SCORE_STEPS = 10_000


def make_page(
    evaluation: Evaluation,
    summary: Mapping[str, Any],
    images: Path | None,
    pixel_range: PixelRange,
) -> str:
    """Return the page as HTML.

    Args:
        evaluation: what it is about.
        summary: of :func:`~sap_detr.evaluation.report.summarize`, with ``source`` and, where two
            runs are compared, ``against``.
        images: folder of the images; None to draw boxes on grey.
        pixel_range: for images of more than 8 bits.
    """
    content = {
        **{key: value for key, value in summary.items() if key != "per_image"},
        "kinds": KINDS,
        "files": [row["file_name"] or str(row["image_id"]) for row in summary["per_image"]],
        "arrays": _arrays(evaluation),
        "precision": _precision(evaluation),
        "pictures": [
            _picture(evaluation, evaluation.data.image_ids.index(number), images, pixel_range)
            for number in summary["worst_images"]
        ],
    }
    # Nothing in the data can end the element that it stands in.
    data = json.dumps(without_nan(content), separators=(",", ":"), allow_nan=False)
    part = {name: _read(f"report_page.{name}") for name in ("html", "css", "js")}
    return Template(part["html"]).substitute(
        css=part["css"], script=part["js"], data=data.replace("<", "\\u003c")
    )


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def score_code(score: Floats) -> Ints:
    """Return scores as whole numbers of ``SCORE_STEPS``, rounded down."""
    code: Ints = np.floor(score * SCORE_STEPS + 1e-6).astype(np.int64)
    return code


def _arrays(evaluation: Evaluation) -> dict[str, Any]:
    """Return detections and objects, image by image, as little-endian numbers in base64."""
    data, found = evaluation.data, evaluation.data.detections
    kept = np.flatnonzero(evaluation.counted)[:MOST_DETECTIONS]
    lowest = 0.0 if len(kept) == evaluation.counted.sum() else float(found.score[kept[-1]])
    kept = kept[np.argsort(found.image[kept], kind="stable")]
    single = ~data.objects.crowd
    confusion, errors = evaluation.confusion, evaluation.errors
    # The best score of an error that is aimed at the object, which is then not missed.
    aimed = np.full(len(data.objects), -1.0)
    np.maximum.at(aimed, errors.aim[errors.aim >= 0], found.score[errors.aim >= 0])

    def counts(images: Ints) -> str:
        return encode(np.bincount(images, minlength=data.num_images), "<u4")

    def codes(score: Floats) -> str:
        return encode(np.where(score < 0, 0, score_code(score) + 1)[single], "<u2")

    return {
        "lowest": lowest,
        "steps": SCORE_STEPS,
        "found": {
            "count": counts(found.image[kept]),
            "cls": encode(found.cls[kept], "<u2"),
            "score": encode(score_code(found.score[kept]), "<u2"),
            "kind": encode(errors.kind[kept] + 1, "u1"),
        },
        "objects": {
            "count": counts(data.objects.image[single]),
            "cls": encode(data.objects.cls[single], "<u2"),
            "found": codes(confusion.found_score),
            "taken": codes(confusion.taken_score),
            "taken_class": encode(np.maximum(confusion.taken_class, 0)[single], "<u2"),
            "aimed": codes(aimed),
        },
    }


def encode(array: NDArray[Any], dtype: str) -> str:
    """Return numbers of a type as base64."""
    return base64.b64encode(array.astype(dtype).tobytes()).decode("ascii")


def _precision(evaluation: Evaluation) -> list[list[list[float]]]:
    """Return precision at the recalls, per class: at overlaps of 0.5, of 0.75, and their mean."""
    precision = evaluation.numbers.precision
    shown = np.stack([precision[0], precision[5], precision.mean(0)], 1)
    rounded: list[list[list[float]]] = shown.round(4).tolist()
    return rounded


def _picture(
    evaluation: Evaluation, image: int, folder: Path | None, pixel_range: PixelRange
) -> dict[str, Any]:
    """Return an image with its boxes, in fractions of the image."""
    data = evaluation.data
    size = data.sizes[image]
    scale = np.tile(np.maximum(size, 1), 2)
    of_image = (data.detections.image == image) & evaluation.counted
    found = np.flatnonzero(of_image)[:MOST_BOXES]
    objects = np.flatnonzero((data.objects.image == image) & ~data.objects.crowd)
    found_score = evaluation.confusion.found_score[objects]
    file = None if folder is None else folder / data.file_names[image]
    return {
        "index": image,
        "width": float(size[0]),
        "height": float(size[1]),
        "jpeg": None if file is None else _small_jpeg(file, pixel_range),
        "found": {
            "box": (data.detections.box[found] / scale).round(4).tolist(),
            "cls": data.detections.cls[found].tolist(),
            "score": score_code(data.detections.score[found]).tolist(),
            "kind": (evaluation.errors.kind[found] + 1).tolist(),
        },
        "objects": {
            "box": (data.objects.box[objects] / scale).round(4).tolist(),
            "cls": data.objects.cls[objects].tolist(),
            "found": np.where(found_score < 0, 0, score_code(found_score) + 1).tolist(),
        },
    }


def _small_jpeg(file: Path, pixel_range: PixelRange) -> str | None:
    """Return a small copy of an image as base64; None if it can't be read."""
    try:
        picture = Image.fromarray(read_image(file, pixel_range=pixel_range))
    except BadImageError:
        return None
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode("ascii")
