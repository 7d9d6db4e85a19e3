"""When two runs count as the same."""

from __future__ import annotations

import numpy as np
import pytest

from sap_detr.export import LIMITS, Difference, Pair, difference
from sap_detr.export.running import Found


def pair(**changes):
    """Twenty detections by the model, and the same but for changes by a file."""
    scores = np.linspace(0.95, 0.5, 20, dtype=np.float32)
    boxes = np.arange(20, dtype=np.float32)[:, None] * 50 + np.array([0, 0, 40, 40], np.float32)
    expected = Found(boxes, scores, np.zeros(20, np.int64))
    return Pair(expected, expected._replace(**changes), expected, (1000, 1000), (1000, 1000))


def moved(*rows, by):
    boxes = pair().expected.boxes.copy()
    boxes[list(rows)] += by
    return pair(boxes=boxes)


def test_equal_runs_agree_and_nothing_is_no_agreement():
    for limits in LIMITS.values():
        assert difference([pair()], limits).within(limits)
        assert not Difference().within(limits)


@pytest.mark.parametrize("by, all_agree", [(0.04, True), (0.06, False)])
def test_in_float32_every_detection_must_be_found_again(by, all_agree):
    limits = LIMITS["float32"]
    found = difference([moved(3, by=by)], limits)
    assert found.within(limits) == all_agree
    assert (found.agreeing, found.detections) == (18 + all_agree, 19)
    assert found.box == pytest.approx(by, abs=1e-4)


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8"])
def test_with_fewer_digits_one_of_twenty_may_be_elsewhere(precision):
    limits = LIMITS[precision]
    pairs = [pair()] * 19
    assert difference([*pairs, moved(3, by=500)], limits).within(limits)
    everywhere = [moved(*range(15), by=100)]
    assert not difference(everywhere * 20, limits).within(limits)


def test_another_class_or_no_number_is_not_found_again():
    limits = LIMITS["int8"]
    assert difference([pair(classes=np.ones(20, np.int64))], limits).agreeing == 0
    nothing = difference([pair(scores=np.full(20, np.nan, np.float32))], limits)
    assert (nothing.agreeing, nothing.box) == (0, np.inf)
