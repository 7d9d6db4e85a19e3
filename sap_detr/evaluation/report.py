"""All that is known of a data set's detections, as data for ``results.json`` and for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .calibration import calibrate
from .coco_numbers import PER_CLASS, CocoNumbers, coco_numbers
from .confusion import Confusion, confusion_matrix, find_confusion
from .curves import Threshold, best_threshold
from .dataset import Bools, EvaluationData, Floats, Ints, evaluation_data
from .error_kinds import CORRECT, FOUND_FROM, IGNORED, KINDS, NEAR_FROM, ErrorKinds, find_errors
from .groups import ap_by_object_count, ap_by_position, mean_ap
from .matching import Matches, find_pairs

FORMAT = 1
NUM_WORST = 20


@dataclass(frozen=True)
class Evaluation:
    """Detections with what became of them.

    Attributes:
        data: objects and detections.
        matches: at COCO's ten overlaps, the first of which is 0.5.
        errors: by kind.
        confusion: of classes.
        numbers: COCO's.
        overall: the best threshold of all classes together; None if nothing is found.
        thresholds: the best of each class.
    """

    data: EvaluationData
    matches: Matches
    errors: ErrorKinds
    confusion: Confusion
    numbers: CocoNumbers
    overall: Threshold | None
    thresholds: list[Threshold | None]

    @property
    def counted(self) -> Bools:
        """(M,), which detections count at an overlap of 0.5: those that lie in no crowd."""
        return np.asarray(self.errors.kind != IGNORED)

    @property
    def correct(self) -> Bools:
        """(M,), which detections have found an object at an overlap of 0.5."""
        return np.asarray(self.errors.kind == CORRECT)


def evaluate(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    annotations_name: str = "",
    results_name: str = "",
) -> Evaluation:
    """Find out all that there is to know.

    Args:
        annotations: COCO's dict.
        results: COCO's list of detections.
        annotations_name: of the file, for messages.
        results_name: of the file, for messages.

    Raises:
        EvaluationError: see :func:`~sap_detr.evaluation.dataset.evaluation_data`.
    """
    data = evaluation_data(annotations, results, annotations_name, results_name)
    found = data.detections
    pairs = find_pairs(data, NEAR_FROM)
    numbers = coco_numbers(data)
    matches = numbers.matches
    errors = find_errors(data, pairs, matches)
    positives = data.count_objects()
    counted, correct = errors.kind != IGNORED, errors.kind == CORRECT
    chosen = [counted & (found.cls == number) for number in range(data.num_classes)]
    return Evaluation(
        data,
        matches,
        errors,
        find_confusion(data, pairs, matches),
        numbers,
        best_threshold(found.score[counted], correct[counted], int(positives.sum())),
        [
            best_threshold(found.score[of_class], correct[of_class], int(number))
            for of_class, number in zip(chosen, positives, strict=True)
        ],
    )


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """Return what ``results.json`` holds: AP and its differences 0..100, all else 0..1.

    What there is no number for is None, such as AP of a class without objects.
    """
    data, errors = evaluation.data, evaluation.errors
    counts = errors.counts(data.detections.cls, data.objects.cls, data.num_classes)
    cost = 100 * errors.cost
    threshold = 0.5 if evaluation.overall is None else evaluation.overall.score
    position_count, position_ap = ap_by_position(data, evaluation.matches)
    images = image_rows(evaluation, threshold)
    counted = evaluation.counted
    summary = {
        "format": FORMAT,
        "images": data.num_images,
        "objects": int(data.count_objects().sum()),
        "crowds": int(data.objects.crowd.sum()),
        "detections": len(data.detections),
        "coco": {name: 100 * value for name, value in evaluation.numbers.twelve.items()},
        "classes": _classes(evaluation, counts, cost),
        "threshold": {
            "overlap": FOUND_FROM,
            **asdict(evaluation.overall or Threshold(math.nan, 0.0, 0.0, 0.0)),
        },
        "calibration": calibrate(data.detections.score[counted], evaluation.correct[counted]),
        "errors": {
            "found_from": FOUND_FROM,
            "near_from": NEAR_FROM,
            "kinds": {
                kind: {"count": int(counts[k].sum()), "cost": mean_ap(cost[k])}
                for k, kind in enumerate(KINDS)
            },
        },
        "confusion": {
            "threshold": threshold,
            "labels": [*data.class_names, "background"],
            "matrix": confusion_matrix(
                data, evaluation.matches, evaluation.confusion, threshold
            ).tolist(),
        },
        "by_object_count": [
            {"objects": name, "images": number, "AP": 100 * ap}
            for name, number, ap in ap_by_object_count(data, evaluation.matches)
        ],
        "by_position": {
            "objects": position_count.tolist(),
            "AP": (100 * position_ap).tolist(),
        },
        "worst_images": [images[i]["image_id"] for i in worst_images(images)],
        "per_image": images,
    }
    plain: dict[str, Any] = without_nan(summary)
    return plain


def _classes(evaluation: Evaluation, counts: Ints, cost: Floats) -> list[dict[str, Any]]:
    """Describe the classes; counts and cost (K, C) are those of the kinds of error."""
    data, rows = evaluation.data, []
    positives = data.count_objects()
    for number, name in enumerate(data.class_names):
        chosen = evaluation.counted & (data.detections.cls == number)
        best = evaluation.thresholds[number]
        ap = 100 * evaluation.numbers.per_class[number]
        rows.append(
            {
                "name": name,
                "category_id": data.category_ids[number],
                "objects": int(positives[number]),
                "detections": int(chosen.sum()),
                **dict(zip(PER_CLASS, ap.tolist(), strict=True)),
                "threshold": None if best is None else asdict(best),
                "calibration": calibrate(data.detections.score[chosen], evaluation.correct[chosen]),
                "errors": {
                    kind: {"count": int(counts[k, number]), "cost": float(cost[k, number])}
                    for k, kind in enumerate(KINDS)
                },
            }
        )
    return rows


def image_rows(evaluation: Evaluation, threshold: float) -> list[dict[str, Any]]:
    """Count per image, with detections from a threshold on: objects and what was made of them."""
    data = evaluation.data
    single = ~data.objects.crowd
    shown = (data.detections.score >= threshold) & evaluation.counted

    def per_image(images: Ints) -> list[int]:
        numbers: list[int] = np.bincount(images, minlength=data.num_images).tolist()
        return numbers

    objects = per_image(data.objects.image[single])
    correct = per_image(data.detections.image[shown & evaluation.correct])
    false = per_image(data.detections.image[shown & ~evaluation.correct])
    return [
        {
            "image_id": data.image_ids[i],
            "file_name": data.file_names[i],
            "objects": objects[i],
            "correct": correct[i],
            "false": false[i],
            "missed": objects[i] - correct[i],
            "f1": _f1(objects[i], correct[i], false[i]),
        }
        for i in range(data.num_images)
    ]


def _f1(objects: int, correct: int, false: int) -> float:
    number = objects + correct + false
    return 2 * correct / number if number else 1.0


def worst_images(rows: Sequence[Mapping[str, Any]], number: int = NUM_WORST) -> list[int]:
    """Return the places of the images with the most errors, then the lowest F1, the worst first."""
    errors = [row["false"] + row["missed"] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (-errors[i], rows[i]["f1"], i))
    return [i for i in order[:number] if errors[i]]


def without_nan(value: Any) -> Any:
    """Return nested containers with None for numbers that are not finite, as json needs it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
