"""AP by arrays is pycocotools' AP, class by class and overlap by overlap."""

from __future__ import annotations

import numpy as np
import pytest
from generated_detections import generate

from sap_detr.evaluation import evaluate
from sap_detr.evaluation.coco_numbers import coco_numbers
from sap_detr.evaluation.curves import Ranking, best_threshold
from sap_detr.evaluation.dataset import MAX_DETECTIONS, evaluation_data


def average_precision(truth, results, repeat=None):
    evaluation = evaluate(truth, results)
    data, matches = evaluation.data, evaluation.matches
    found = data.detections
    ranking = Ranking(found.cls, matches.correct, matches.ignored, data.num_classes)
    if repeat is None:
        return ranking.average_precision(data.count_objects())
    repeat = np.array(repeat)
    return ranking.average_precision(data.count_objects(repeat), repeat[found.image])


def summary(ap):
    """AP, AP50 and AP75 of each class (C, 3)."""
    return np.stack([ap.mean(0), ap[0], ap[5]], 1)


@pytest.mark.parametrize("seed", range(50))
def test_ap_is_that_of_pycocotools(seed):
    truth, results = generate(seed)
    expected = coco_numbers(evaluation_data(truth, results))
    found = summary(average_precision(truth, results))
    np.testing.assert_allclose(found, expected.per_class[:, :3], rtol=0, atol=1e-12)
    if np.isfinite(found).any():
        means = [expected.twelve[name] for name in ("AP", "AP50", "AP75")]
        np.testing.assert_allclose(np.nanmean(found, 0), means, rtol=0, atol=1e-12)


def test_detections_beyond_the_hundredth_do_not_count():
    truth, results = generate(0, num_images=1, num_classes=2)
    crowded = [{**result, "score": result["score"] / 2} for result in results] * 40
    data = evaluation_data(truth, results + crowded)
    per_class = np.bincount(data.detections.cls)
    assert per_class.max() == MAX_DETECTIONS
    expected = coco_numbers(data).per_class[:, :3]
    found = summary(average_precision(truth, results + crowded))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(0, 16, 2))
def test_images_that_count_several_times_are_like_copies_of_them(seed):
    truth, results = generate(seed)
    images = sorted(truth["images"], key=lambda image: image["id"])
    repeat = np.random.default_rng(seed).integers(0, 4, len(images))
    copied = {"images": [], "annotations": [], "categories": truth["categories"]}
    copied_results = []
    for image, times in zip(images, repeat, strict=True):
        for _ in range(times):
            new = {"image_id": len(copied["images"])}
            copied["images"].append({**image, "id": new["image_id"]})
            of_image = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
            copied["annotations"] += [{**a, **new} for a in of_image]
            copied_results += [{**r, **new} for r in results if r["image_id"] == image["id"]]
    for number, annotation in enumerate(copied["annotations"], 1):
        annotation["id"] = number
    expected = average_precision(copied, copied_results)
    found = average_precision(truth, results, repeat)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "score, correct, positives, expected",
    [
        # 1 of 1, 1 of 2, 2 of 3: F1 is 2/4, 2/5, 4/6 with three objects.
        ([0.9, 0.8, 0.6, 0.2], [1, 0, 1, 0], 3, (0.4, 2 / 3, 2 / 3, 2 / 3)),
        # The last one is believed too: nothing is below it.
        ([0.9, 0.5], [1, 1], 2, (0.5, 1, 1, 1)),
        # Equal scores are believed together: 2/3 with both.
        ([0.5, 0.5, 0.1], [1, 0, 0], 1, (0.3, 2 / 3, 1 / 2, 1)),
        # F1 is 2/3 with one and with four: fewer are believed.
        ([0.8, 0.6, 0.5, 0.4], [1, 0, 0, 1], 2, (0.7, 2 / 3, 1, 1 / 2)),
        # No number lies between the two.
        ([0.5, np.nextafter(0.5, 0)], [1, 0], 1, (0.5, 1, 1, 1)),
    ],
)
def test_thresholds_known_by_hand(score, correct, positives, expected):
    found = best_threshold(np.array(score), np.array(correct, bool), positives)
    assert (found.score, found.f1, found.precision, found.recall) == pytest.approx(expected, abs=0)


def test_without_a_find_there_is_no_threshold():
    assert best_threshold(np.array([0.9, 0.3]), np.zeros(2, bool), 4) is None
    assert best_threshold(np.zeros(0), np.zeros(0, bool), 4) is None
