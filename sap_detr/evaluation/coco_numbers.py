"""COCO's numbers, and what finds what, by pycocotools, whose AP is the one that counts."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Bools, Floats

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
        true_of: (T, M), by its place in the list, the annotation that a detection has found; -1 for
            none, and for detections beyond the best hundred of a class in an image.
        ignored: (T, M), whether a detection does not count: it lies in a crowd.
    """

    twelve: dict[str, float]
    per_class: Floats
    precision: Floats
    true_of: NDArray[np.int32]
    ignored: Bools


def coco_numbers(
    annotations: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> CocoNumbers:
    """Evaluate boxes with pycocotools.

    Args:
        annotations: COCO's dict.
        results: COCO's list of detections. Neither is changed.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **annotations}
        # It writes into the annotations, and an id of 0 is none to it.
        truth.dataset["annotations"] = [
            {"iscrowd": 0, **a, "id": i} for i, a in enumerate(annotations["annotations"], 1)
        ]
        truth.createIndex()
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": _as_annotations(results)}
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        classes, overlaps = evaluation.params.catIds, evaluation.params.iouThrs
        any_area = evaluation.params.areaRng[0]
        true_of = np.full((len(overlaps), len(results)), -1, np.int32)
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
        true_of,
        ignored,
    )


def _as_annotations(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give detections what pycocotools' loadRes gives them, but for the outlines of masks."""
    return [
        {**r, "id": i, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0}
        for i, r in enumerate(results, 1)
    ]
