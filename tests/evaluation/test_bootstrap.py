"""Two runs are compared on draws of the same images."""

from __future__ import annotations

import numpy as np
import pytest
from generated_detections import generate

from sap_detr.evaluation import EvaluationError, compare, evaluate, summarize


@pytest.fixture(scope="module")
def case():
    truth, results = generate(0, num_images=40)
    return truth, results, evaluate(truth, results)


def rows(this, other, **options):
    return {row["name"]: row for row in compare(this, other, **options)["rows"]}


def test_the_same_run_differs_by_nothing(case):
    truth, results, evaluation = case
    found = rows(evaluation, evaluate(truth, list(results)), num_samples=50)
    assert list(found) == ["AP", "AP50", "AP75", *(f"AP of class {i}" for i in range(4))]
    for row in found.values():
        assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)


def test_numbers_are_those_of_the_report(case):
    truth, results, evaluation = case
    fewer = evaluate(truth, results[::2])
    found = rows(evaluation, fewer, num_samples=20)
    for side, whole in (("this", summarize(evaluation)), ("other", summarize(fewer))):
        expected = [whole["coco"][name] for name in ("AP", "AP50", "AP75")]
        expected += [c["AP"] for c in whole["classes"]]
        assert [row[side] for row in found.values()] == pytest.approx(expected)
    assert all(row["difference"] == row["this"] - row["other"] for row in found.values())


def test_a_clear_difference_is_seen_and_chance_is_not(case):
    truth, results, evaluation = case
    # Most detections are gone, in all images alike.
    worse = rows(evaluation, evaluate(truth, results[::6]), num_samples=200)["AP"]
    assert 0 < worse["low"] < worse["difference"] < worse["high"]
    # Scores that were drawn anew for a few detections.
    random = np.random.default_rng(1)
    shaken = [{**r, "score": r["score"] + random.uniform(-0.04, 0.04)} for r in results]
    shaken = [{**r, "score": min(max(r["score"], 0), 1)} for r in shaken]
    chance = rows(evaluation, evaluate(truth, shaken), num_samples=200)["AP"]
    assert chance["low"] < 0 < chance["high"]


def test_draws_are_those_of_the_seed_and_of_whole_images(case):
    truth, results, evaluation = case
    # All that differs is in one image, which a third of the draws lacks.
    image = truth["annotations"][0]["image_id"]
    other = evaluate(truth, [r for r in results if r["image_id"] != image])
    first = compare(evaluation, other, num_samples=60, seed=3)
    assert first == compare(evaluation, other, num_samples=60, seed=3)
    assert first != compare(evaluation, other, num_samples=60, seed=4)
    ap = first["rows"][0]
    assert ap["low"] <= 0 <= ap["high"]
    assert ap["high"] - ap["low"] < 3  # not paired, it would be wider


def test_a_class_without_objects_has_no_interval(case):
    truth, results, _ = case
    truth = {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] != 1]}
    found = rows(evaluate(truth, results), evaluate(truth, results[::2]), num_samples=5)
    assert np.isnan(found["AP of class 0"]["low"])
    assert np.isfinite(found["AP"]["low"])


def test_other_images_are_refused(case):
    truth, results, evaluation = case
    fewer = {**truth, "images": truth["images"] + [{**truth["images"][0], "id": 9999}]}
    with pytest.raises(EvaluationError, match="different images"):
        compare(evaluation, evaluate(fewer, results))
