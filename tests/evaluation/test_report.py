"""A scene of which everything is known by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from generated_detections import generate

from sap_detr.evaluation import EvaluationError, evaluate, summarize
from sap_detr.evaluation.report import image_rows

CAT, DOG = 0, 1
# Three images of 90 x 90 pixels. (image, class, box, crowd); the overlaps below are areas that
# share a side of 20 pixels.
OBJECTS = [
    (0, CAT, (0, 0, 20, 20), 0),  # a: found, once more by a duplicate
    (0, CAT, (60, 60, 20, 20), 0),  # b: found too far to the right
    (0, DOG, (30, 0, 20, 20), 0),  # c: taken for a cat
    (1, CAT, (0, 0, 20, 20), 0),  # d: missed
    (1, DOG, (60, 60, 20, 20), 0),  # e: found
    (1, DOG, (0, 40, 40, 40), 1),  # a crowd
]
DETECTIONS = [
    (0, CAT, (0, 0, 20, 20), 0.95),  # right: a
    (0, CAT, (0, 2, 20, 20), 0.85),  # duplicate of a: overlap 360 / 440
    (0, CAT, (70, 60, 20, 20), 0.75),  # localisation: 200 / 600 of b
    (0, CAT, (30, 0, 20, 20), 0.65),  # classification: c is a dog
    (1, DOG, (60, 60, 20, 20), 0.55),  # right: e
    (1, DOG, (0, 45, 20, 20), 0.45),  # in the crowd: does not count
    (1, CAT, (60, 70, 20, 20), 0.35),  # both: 200 / 600 of the dog e
    (2, DOG, (0, 0, 20, 20), 0.25),  # background
]


def scene():
    truth = {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.jpg", "width": 90, "height": 90} for i in range(3)
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": 10 + image,
                "category_id": (5, 9)[cls],
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for number, (image, cls, box, crowd) in enumerate(OBJECTS, 1)
        ],
    }
    results = [
        {
            "image_id": 10 + image,
            "category_id": (5, 9)[cls],
            "bbox": list(box),
            "score": score,
        }
        for image, cls, box, score in DETECTIONS
    ]
    return truth, results


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(*scene())


@pytest.fixture(scope="module")
def summary(evaluation):
    return summarize(evaluation)


def test_kinds_of_error(evaluation, summary):
    names = {-1: "right", -2: "crowd", 0: "classification", 1: "localisation", 2: "both"}
    names |= {3: "duplicate", 4: "background"}
    # Detections stand in the order of their scores.
    assert [names[k] for k in evaluation.errors.kind.tolist()] == [
        "right",
        "duplicate",
        "localisation",
        "classification",
        "right",
        "crowd",
        "both",
        "background",
    ]
    assert evaluation.errors.missed.tolist() == [False, False, False, True, False, False]
    kinds = summary["errors"]["kinds"]
    assert {kind: kinds[kind]["count"] for kind in kinds} == dict.fromkeys(kinds, 1)


def at_recalls(*steps):
    """AP of a curve: (recall, precision) of its steps from the left; 0 to the right of them."""
    precision, before = np.zeros(101), -1
    for recall, value in steps:
        last = int(np.floor(recall * 100 + 1e-9))
        precision[before + 1 : last + 1] = value
        before = last
    return 100 * precision.mean()


def test_costs_of_errors(summary):
    # Cats: right, then false ones; three objects. Dogs: right, then a false one; two objects.
    cat, dog = at_recalls((1 / 3, 1)), at_recalls((1 / 2, 1))
    assert summary["coco"]["AP50"] == pytest.approx((cat + dog) / 2, abs=1e-9)
    expected = {
        # c is found with 0.65, above the other dog: both dogs, precision 1.
        "classification": (0, at_recalls((1, 1)) - dog),
        # b is found at the third place of the cats: 2 of 3 are right.
        "localisation": (at_recalls((1 / 3, 1), (2 / 3, 2 / 3)) - cat, 0),
        "both": (0, 0),  # below all finds
        "duplicate": (0, 0),  # nothing is found after it
        "background": (0, 0),
        # Two cats remain.
        "missed": (at_recalls((1 / 2, 1)) - cat, 0),
    }
    for kind, costs in expected.items():
        of_classes = [c["errors"][kind]["cost"] for c in summary["classes"]]
        assert of_classes == pytest.approx(costs, abs=1e-9), kind
        total = summary["errors"]["kinds"][kind]["cost"]
        assert total == pytest.approx(sum(costs) / 2, abs=1e-9), kind


def test_false_detections_before_finds_cost_what_they_push_down():
    truth, results = scene()
    scores = {0.85: 0.99, 0.25: 0.98, 0.35: 0.97}  # duplicate becomes the find, a the duplicate
    results = [{**r, "score": scores.get(r["score"], r["score"])} for r in results]
    kinds = summarize(evaluate(truth, results))["errors"]["kinds"]
    # Dogs: background, then right: precision 1/2. Cats: right (0.99), both, duplicate.
    assert kinds["background"]["cost"] == pytest.approx(
        (at_recalls((1 / 2, 1)) - at_recalls((1 / 2, 1 / 2))) / 2, abs=1e-9
    )
    assert kinds["duplicate"]["cost"] == 0
    # b is found at the fourth place (both and the duplicate stand before it): 2 of 4.
    assert kinds["localisation"]["cost"] == pytest.approx(
        (at_recalls((1 / 3, 1), (2 / 3, 1 / 2)) - at_recalls((1 / 3, 1))) / 2, abs=1e-9
    )


def test_an_error_of_one_kind_is_put_right_whatever_others_are_aimed_at_its_object():
    truth, results = scene()
    # The cat b is taken for a dog too, with a higher score than that of the box beside it.
    dog = {"image_id": 10, "category_id": 9, "bbox": [60, 60, 20, 20], "score": 0.99}
    kinds = summarize(evaluate(truth, [*results, dog]))["errors"]["kinds"]
    assert (kinds["classification"]["count"], kinds["localisation"]["count"]) == (2, 1)
    assert kinds["localisation"]["cost"] == pytest.approx(
        (at_recalls((1 / 3, 1), (2 / 3, 2 / 3)) - at_recalls((1 / 3, 1))) / 2, abs=1e-9
    )


def test_confusion_matrix(summary, evaluation):
    # All together F1 is best with the first: 1 of 1 detections, 1 of 5 objects: 2 / 6.
    # With five: 2 of 5, 4 / 10.
    assert summary["threshold"]["f1"] == pytest.approx(4 / 10)
    assert summary["threshold"]["score"] == pytest.approx((0.55 + 0.35) / 2)
    assert summary["confusion"]["labels"] == ["cat", "dog", "background"]
    assert summary["confusion"]["matrix"] == [
        [1, 0, 2],  # a; b and d are missed
        [1, 1, 0],  # c is taken for a cat; e
        [2, 0, 0],  # the duplicate and the one beside b
    ]


def test_thresholds_of_classes(summary):
    cat, dog = (c["threshold"] for c in summary["classes"])
    # 2 · 1 / (1 + 3), then only false ones.
    assert (cat["score"], cat["f1"]) == (pytest.approx(0.9), pytest.approx(1 / 2))
    # 2 · 1 / (1 + 2); what lies in the crowd does not count.
    assert (dog["score"], dog["f1"]) == (pytest.approx(0.4), pytest.approx(2 / 3))


def test_calibration(summary):
    calibration = summary["calibration"]
    assert calibration["count"] == [0, 0, 1, 1, 0, 1, 1, 1, 1, 1]
    assert calibration["precision"][9] == 1
    differences = [0.05, 0.85, 0.75, 0.65, 0.45, 0.35, 0.25]
    assert calibration["error"] == pytest.approx(sum(differences) / 7)


def test_images_by_their_errors(summary, evaluation):
    assert summary["worst_images"] == [10, 11]
    rows = {r["image_id"]: r for r in image_rows(evaluation, 0.2)}
    assert rows[10] | {"file_name": ""} == {
        "image_id": 10,
        "file_name": "",
        "objects": 3,
        "correct": 1,
        "false": 3,
        "missed": 2,
        "f1": 2 / 7,
    }
    assert (rows[11]["false"], rows[12]["false"], rows[12]["f1"]) == (1, 1, 0)


def test_ap_by_number_and_place(summary):
    by_count = {row["objects"]: row for row in summary["by_object_count"]}
    assert list(by_count) == ["1", "2 to 4", "5 to 9", "10 to 19", "20 or more"]
    assert by_count["2 to 4"]["images"] == 2
    # The same as of all images: in the third one only the last of all detections is false.
    assert by_count["2 to 4"]["AP"] == pytest.approx(summary["coco"]["AP"], abs=1e-9)
    assert by_count["1"]["AP"] is None
    place = summary["by_position"]
    assert place["objects"] == [[2, 1, 0], [0, 0, 0], [0, 0, 2]]
    # a and d: one of two cats is found at all overlaps; e: the dog after none; b: the cat is not.
    assert place["AP"][0][0] == pytest.approx(at_recalls((1 / 2, 1)))
    assert place["AP"][2][2] == pytest.approx(50)
    assert place["AP"][1] == [None] * 3


@pytest.mark.parametrize("seed", range(12))
def test_sums_agree(seed):
    """Rows of the matrix are the objects, columns the detections, the diagonal the finds."""
    evaluation = evaluate(*generate(seed))
    found = summarize(evaluation)
    threshold = found["confusion"]["threshold"]
    matrix = np.array(found["confusion"]["matrix"])
    objects = [c["objects"] for c in found["classes"]]
    assert matrix[:-1].sum(1).tolist() == objects
    shown = evaluation.counted & (evaluation.data.detections.score >= threshold)
    assert matrix[:, :-1].sum() == shown.sum()
    assert matrix.min() >= 0
    assert matrix.diagonal().sum() == sum(row["correct"] for row in found["per_image"])
    kinds = found["errors"]["kinds"]
    false = sum(kinds[kind]["count"] for kind in kinds if kind != "missed")
    assert false == (evaluation.counted & ~evaluation.correct).sum()
    assert all(kinds[kind]["cost"] is None or kinds[kind]["cost"] >= -1e-9 for kind in kinds)
    json.dumps(found, allow_nan=False)


def change(what, **values):
    truth, results = scene()
    part = results if what == "results" else truth[what]
    part[1] = {**part[1], **values}
    return truth, results


@pytest.mark.parametrize(
    "truth_and_results, words",
    [
        (change("results", image_id=99), r"r\.json: image_id 99 is none of a\.json"),
        (change("results", category_id=0), "category_id 0 is none"),
        (change("results", score=1.5), r"entry 1 has score 1\.5"),
        (change("results", bbox=[0, 0, float("nan"), 1]), "entry 1 has"),
        (change("results", bbox=[1, 2]), "every detection needs"),
        (change("annotations", category_id=77), "refers to nothing"),
        (({"images": []}, []), "has no annotations, categories"),
        (([], []), "COCO annotations are a dict"),
        ((scene()[0], {"bbox": {}}), "a list of detections, this is a dict"),
    ],
)
def test_what_can_not_be_used_is_named(truth_and_results, words):
    with pytest.raises(EvaluationError, match=words):
        evaluate(*truth_and_results, "a.json", "r.json")


def test_a_data_set_without_objects_or_detections():
    truth, results = scene()
    nothing_found = summarize(evaluate(truth, []))
    assert nothing_found["coco"]["AP"] == 0
    assert nothing_found["threshold"]["score"] is None
    assert nothing_found["errors"]["kinds"]["missed"] == {"count": 5, "cost": 0}
    nothing_there = summarize(evaluate({**truth, "annotations": []}, results))
    assert nothing_there["coco"]["AP"] is None
    assert nothing_there["errors"]["kinds"]["background"] == {"count": 8, "cost": None}
