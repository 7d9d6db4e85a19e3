"""Detectron2's standard dict of an image, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.structures import BoxMode

from .findings import Findings, Kind

# file_name, image_id, height, width, annotations: see Detectron2's "Use Custom Datasets".
StandardDict = dict[str, Any]


def objects(record: StandardDict) -> Iterator[dict[str, Any]]:
    """Return the annotations that are no crowds."""
    return (a for a in record.get("annotations", ()) if not a.get("iscrowd", 0))


def xywh(annotation: dict[str, Any]) -> tuple[float, float, float, float]:
    """Return the box of an annotation as x, y, width, height in pixels."""
    x, y, a, b = (float(v) for v in annotation["bbox"])
    return (x, y, a, b) if annotation["bbox_mode"] == BoxMode.XYWH_ABS else (x, y, a - x, b - y)


def name_image(record: StandardDict) -> str:
    """Return what to call an image in messages."""
    return f"image {record.get('image_id')!r} ({str(record['file_name'])!r})"


def require_objects(dicts: Sequence[StandardDict], findings: Findings, training: bool) -> None:
    """Note a data set in which there is nothing to train on, or to evaluate with."""
    if not any(any(True for _ in objects(record)) for record in dicts):
        count = sum(len(record.get("annotations", ())) for record in dicts)
        kind = Kind.NOTHING_TO_TRAIN_ON if training else Kind.NOTHING_TO_EVALUATE
        findings.add(kind, what=f"not one of its {count} annotations is an object to be found")
