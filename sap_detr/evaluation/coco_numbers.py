"""COCO's numbers, and what finds what, by pycocotools, whose AP is the one that counts."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Detections, EvaluationData, Floats, Objects
from .matching import Matches

# In the order of pycocotools.
TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
PER_CLASS = TWELVE[:6]
# Classes do not depend on one another, and what is kept of many takes gigabytes.
_CLASSES_AT_A_TIME = 16


@dataclass(frozen=True)
class CocoNumbers:
    """COCO's numbers, 0..1; NaN where there are no objects.

    Attributes:
        twelve: AP and average recall (AR) of all classes, by name.
        per_class: (C, 6), the six kinds of AP of each class; ascending category ids.
        precision: (T, C, R), at COCO's ten overlaps and its recalls.
        matches: detections, the best first, each find the object of their class that they overlap
            most. An object is found once, a crowd any number of times by detections that find
            nothing else.
    """

    twelve: dict[str, float]
    per_class: Floats
    precision: Floats
    matches: Matches


def coco_numbers(data: EvaluationData) -> CocoNumbers:
    """Evaluate boxes with pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects, detections = data.objects, data.detections
    about = {
        "images": [{"id": index} for index in range(data.num_images)],
        "categories": [{"id": index} for index in range(data.num_classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        true = _annotations(objects, area=objects.area, iscrowd=objects.crowd.astype(np.int64))
        truth.dataset = {**about, "annotations": true}
        truth.createIndex()
        area = detections.box[:, 2:].prod(1)
        results = _annotations(detections, area=area, score=detections.score)
        found.dataset = {**about, "annotations": results}
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        classes, overlaps = evaluation.params.catIds, evaluation.params.iouThrs
        any_area = evaluation.params.areaRng[0]
        true_of = np.full((len(overlaps), len(detections)), -1, np.int32)
        ignored = np.zeros(true_of.shape, np.bool_)
        parts = []
        for start in range(0, len(classes), _CLASSES_AT_A_TIME):
            evaluation.params.catIds = classes[start : start + _CLASSES_AT_A_TIME]
            evaluation.evaluate()
            evaluation.accumulate()
            parts.append(evaluation.eval)
            for image in evaluation.evalImgs:
                if image is not None and image["aRng"] == any_area:
                    places = np.array(image["dtIds"], np.int64) - 1
                    true_of[:, places] = image["dtMatches"] - 1
                    ignored[:, places] = image["dtIgnore"]
        evaluation.params.catIds = classes
        evaluation.eval = {
            "precision": np.concatenate([part["precision"] for part in parts], 2),
            "recall": np.concatenate([part["recall"] for part in parts], 1),
        }
        evaluation.summarize()
    found_by = np.full((len(true_of), len(objects)), -1, np.int32)
    level, finder = np.nonzero((true_of >= 0) & ~ignored)
    found_by[level, true_of[level, finder]] = finder
    stats = [np.nan if value < 0 else float(value) for value in evaluation.stats]
    precision = evaluation.eval["precision"]  # overlaps, recalls, classes, areas, numbers
    best = precision[:, :, :, :, -1]
    kinds = [best[:, :, :, 0], best[:1, :, :, 0], best[5:6, :, :, 0]]
    kinds += [best[:, :, :, area] for area in (1, 2, 3)]
    means = np.array([kind.mean((0, 1)) for kind in kinds]).T
    curves = best[:, :, :, 0].transpose(0, 2, 1)
    return CocoNumbers(
        dict(zip(TWELVE, stats, strict=True)),
        np.where(means < 0, np.nan, means),
        np.where(curves < 0, np.nan, curves),
        Matches(true_of, ignored, found_by),
    )


def _annotations(boxes: Objects | Detections, **columns: NDArray[Any]) -> list[dict[str, Any]]:
    """Return boxes as pycocotools takes them, with more of each; an id of 0 is none to it."""
    columns |= {"image_id": boxes.image, "category_id": boxes.cls, "bbox": boxes.box}
    columns |= {"id": np.arange(1, len(boxes) + 1)}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
