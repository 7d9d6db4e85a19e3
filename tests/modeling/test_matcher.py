import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from sap_detr.modeling import (
    GIoUCost,
    HungarianMatcher,
    L1BoxCost,
    Predictions,
    SoftmaxClassCost,
    Targets,
)

WEIGHTS = {"class": 1.5, "bbox": 5.0, "giou": 2.5}


@pytest.fixture
def matcher() -> HungarianMatcher:
    return HungarianMatcher(
        {
            "class": SoftmaxClassCost(WEIGHTS["class"]),
            "bbox": L1BoxCost(WEIGHTS["bbox"]),
            "giou": GIoUCost(WEIGHTS["giou"]),
        }
    )


def corners(box: list[float]) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def giou(a: list[float], b: list[float]) -> float:
    (al, at, ar, ab), (bl, bt, br, bb) = corners(a), corners(b)
    inter = max(0.0, min(ar, br) - max(al, bl)) * max(0.0, min(ab, bb) - max(at, bt))
    union = (ar - al) * (ab - at) + (br - bl) * (bb - bt) - inter
    hull = (max(ar, br) - min(al, bl)) * (max(ab, bb) - min(at, bt))
    return inter / union - (hull - union) / hull


def written_out_cost(
    predictions: Predictions, targets: Targets, layer: int, image: int
) -> np.ndarray:
    """The published cost of one layer and image, (Q, objects)."""
    logits = predictions.logits[layer, image].tolist()
    boxes = predictions.boxes[layer, image].tolist()
    cost = np.zeros((len(boxes), targets.counts[image]))
    for q, (row, box) in enumerate(zip(logits, boxes, strict=True)):
        total = sum(math.exp(x) for x in row)
        for t in range(targets.counts[image]):
            label = int(targets.labels[image, t])
            target = targets.boxes[image, t].tolist()
            cost[q, t] = (
                WEIGHTS["bbox"] * sum(abs(a - b) for a, b in zip(box, target, strict=True))
                - WEIGHTS["class"] * math.exp(row[label]) / total
                - WEIGHTS["giou"] * giou(box, target)
            )
    return cost


@pytest.mark.parametrize("counts", [(3, 1, 4), (2, 0, 7), (0, 5, 1), (9, 9, 9)])
def test_equals_scipy_on_the_written_out_cost(matcher, make_predictions, make_targets, counts):
    predictions, targets = make_predictions(2, 3, 5), make_targets(counts)
    matches = matcher([predictions], targets)[0]
    assert matches.counts == tuple(min(n, 5) for n in counts)
    assert matches.image.tolist() == [i for i, n in enumerate(matches.counts) for _ in range(n)]
    assert matches.query.shape == matches.target.shape == (2, sum(matches.counts))
    for layer in range(2):
        for image, (queries, objects) in enumerate(matches.per_image(layer)):
            cost = written_out_cost(predictions, targets, layer, image)
            expected_queries, expected_objects = linear_sum_assignment(cost)
            assert queries.tolist() == expected_queries.tolist()
            assert objects.tolist() == expected_objects.tolist()


def test_no_other_assignment_is_cheaper(matcher, make_predictions, make_targets):
    predictions, targets = make_predictions(1, 2, 5), make_targets((3, 2))
    matches = matcher([predictions], targets)[0]
    for image, (queries, objects) in enumerate(matches.per_image(0)):
        cost = written_out_cost(predictions, targets, 0, image)
        count = targets.counts[image]
        least = min(cost[list(p), range(count)].sum() for p in permutations(range(5), count))
        assert cost[queries, objects].sum() == pytest.approx(least, abs=1e-12)


def test_queries_are_in_ascending_order(matcher, make_predictions, make_targets):
    matches = matcher([make_predictions(3, 2, 8)], make_targets((6, 5)))[0]
    for layer in range(3):
        for queries, objects in matches.per_image(layer):
            assert queries.tolist() == sorted(set(queries.tolist()))
            assert len(set(objects.tolist())) == len(objects)


def test_each_layer_is_matched_on_its_own(matcher, make_predictions, make_targets):
    predictions, targets = make_predictions(3, 2, 6), make_targets((3, 4))
    together = matcher([predictions], targets)[0]
    assert not torch.equal(together.query[0], together.query[2])
    alone = matcher([predictions.last_layer], targets)[0]
    assert torch.equal(alone.query[0], together.query[2])
    assert torch.equal(alone.target[0], together.target[2])


def test_a_batch_without_objects(matcher, make_predictions, make_targets):
    matches = matcher([make_predictions(2, 3, 4)], make_targets((0, 0, 0)))[0]
    assert matches.counts == (0, 0, 0)
    assert matches.image.shape == (0,)
    assert matches.query.shape == matches.target.shape == (2, 0)
    assert {x.dtype for x in (matches.image, matches.query, matches.target)} == {torch.int64}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_not_finite_are_matched_last(
    matcher, make_predictions, make_targets, value
):
    predictions, targets = make_predictions(1, 1, 4), make_targets((3,))
    boxes = predictions.boxes.detach().clone()
    boxes[0, 0, 1] = value
    matches = matcher([replace(predictions, boxes=boxes)], targets)[0]
    assert matches.query[0].tolist() == [0, 2, 3]
    everything = torch.full_like(boxes, value)
    assert len(matcher([replace(predictions, boxes=everything)], targets)[0].query[0]) == 3


def test_the_cost_crosses_to_the_host_once(matcher, make_predictions, make_targets, copies_to_host):
    predictions, targets = make_predictions(3, 4, 6), make_targets((2, 0, 3, 1))
    assert copies_to_host(lambda: matcher([predictions], targets)) == ["cpu"]


def test_there_is_no_gradient(matcher, make_predictions, make_targets):
    matches = matcher([make_predictions(1, 1, 4)], make_targets((2,)))[0]
    assert not matches.query.requires_grad
