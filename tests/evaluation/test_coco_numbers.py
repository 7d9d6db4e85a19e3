"""COCO's numbers are those that pycocotools gives all classes at once."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pytest
from generated_detections import generate
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sap_detr.evaluation.coco_numbers import TWELVE, coco_numbers
from sap_detr.evaluation.dataset import evaluation_data


@pytest.mark.parametrize("num_classes", [40, 2])
def test_classes_in_parts_are_all_classes(num_classes):
    truth, results = generate(4, num_images=60, num_classes=num_classes)
    if num_classes == 2:
        # More than the hundred of a class and image that count.
        results = [{**r, "score": r["score"] / n} for n in range(1, 60) for r in results]
    before = copy.deepcopy((truth, results))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = copy.deepcopy({**truth, "info": {}})
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = coco_numbers(evaluation_data(truth, results))
    expected = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    np.testing.assert_array_equal([found.twelve[name] for name in TWELVE], expected)
    assert 0 < found.twelve["AP"] < 1
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    per_class = np.where(precision[0, 0] < 0, np.nan, precision.mean((0, 1)))
    np.testing.assert_array_equal(found.per_class[:, 0], per_class)
    assert (truth, results) == before
