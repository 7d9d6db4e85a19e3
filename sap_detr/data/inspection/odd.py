"""Notes what can be trained on but is probably not meant."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from ..files import name_image
from ..findings import Example, Findings
from ..images import ImageFacts

Json = dict[str, Any]

# Boxes with a shorter side (pixels) are hard to see, and most often a slip of the mouse.
TINY_SIDE = 2.0
# Boxes are the same if all their numbers differ by less than about this (pixels).
_SAME_BOX = 0.01
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


def check_images(
    dicts: Sequence[Json],
    facts: Mapping[str, ImageFacts],
    image_root: Path | None,
    findings: Findings,
) -> None:
    """Note files that EXIF turns, that several entries name, that lie elsewhere or are not listed.

    Args:
        dicts: standard dicts.
        facts: of their files.
        image_root: folder of the images; None if there is not one.
        findings: gets them.
    """
    first_with: dict[str, Json] = {}
    root = None if image_root is None else os.path.normpath(image_root) + os.sep
    for record in dicts:
        name = str(record["file_name"])
        path = os.path.normpath(name)
        if name in facts and facts[name].orientation != 1:
            what = f"EXIF orientation {facts[name].orientation}"
            example = Example(name_image(record), what, (name,))
            findings.add("images that EXIF data turns", example, severity="note")
        if path in first_with:
            what = f"the same file as image {first_with[path].get('image_id')!r}"
            example = Example(name_image(record), what, (name,))
            remedy = "put all annotations of a file under one image id"
            kind = "files that are listed more than once"
            findings.add(kind, example, severity="warning", remedy=remedy)
        first_with.setdefault(path, record)
        if root is not None and not path.startswith(root):
            example = Example(name_image(record), "", (name,))
            kind = "file names that lead out of the folder of the images"
            findings.add(kind, example, severity="warning", remedy="move these images into it")
    if root is None or not dicts:
        return
    listed = set(first_with)
    try:
        with os.scandir(root) as entries:
            images = [e.name for e in entries if Path(e.name).suffix.lower() in _IMAGE_SUFFIXES]
    except OSError:
        return
    for name in sorted(images):
        if root + name not in listed:
            example = Example(repr(name), "", (root + name,))
            kind = "images in the folder that the annotations don't list"
            findings.add(kind, example, severity="note")


def check_boxes(dicts: Sequence[Json], findings: Findings) -> None:
    """Note tiny boxes, and boxes that an image has twice."""
    for record in dicts:
        seen: dict[tuple[int, ...], int] = {}
        name = str(record["file_name"])
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue
            x, y, width, height = xywh(annotation)
            boxes = ((x, y, width, height),)
            if 0 < min(width, height) < TINY_SIDE:
                what = f"{width:.4g}x{height:.4g} pixels (width x height) at {x:.4g}, {y:.4g}"
                kind = f"boxes with a side below {TINY_SIDE:g} pixels"
                remedy = "remove them, unless objects are that small"
                example = Example(name_image(record), what, (name,), boxes)
                findings.add(kind, example, severity="warning", remedy=remedy)
            corner = tuple(round(v / _SAME_BOX) for v in boxes[0])
            category = annotation["category_id"]
            if corner not in seen:
                seen[corner] = category
                continue
            same = seen[corner] == category
            what = f"{width:.4g}x{height:.4g} pixels (width x height) at {x:.4g}, {y:.4g}"
            example = Example(name_image(record), what, (name,), boxes)
            kind = f"boxes annotated twice with {'the same class' if same else 'different classes'}"
            findings.add(
                kind, example, severity="warning" if same else "note", remedy="keep one of them"
            )


def check_num_queries(dicts: Sequence[Json], num_queries: int, findings: Findings) -> None:
    """Note images with more objects than the model has queries."""
    for record in dicts:
        boxes = tuple(xywh(a) for a in record.get("annotations", ()) if not a.get("iscrowd", 0))
        if len(boxes) > num_queries:
            what = f"{len(boxes)} objects"
            example = Example(name_image(record), what, (str(record["file_name"]),), boxes)
            kind = f"images with more objects than the model's {num_queries} queries"
            remedy = "give the model more queries; it can't find more objects than it has"
            findings.add(kind, example, severity="warning", remedy=remedy)


def xywh(annotation: Json) -> tuple[float, float, float, float]:
    """The box of an annotation of a standard dict."""
    x, y, a, b = (float(v) for v in annotation["bbox"])
    return (x, y, a, b) if annotation["bbox_mode"] == BoxMode.XYWH_ABS else (x, y, a - x, b - y)


def file_digest(name: str) -> str | None:
    """A hash of a whole file; None if it can't be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(name, "rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()
