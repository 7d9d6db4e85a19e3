"""Costs, losses, metrics and post-processing that came with SAP-DETR."""

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from sap_detr.modeling import (
    FocalClassCost,
    FocalClassLoss,
    GIoUCost,
    HungarianMatcher,
    L1BoxCost,
    L1BoxLoss,
    Matches,
    ObjectnessLoss,
    OutsidePointCost,
    OutsidePoints,
    Predictions,
    SigmoidTopKPostprocessor,
    Targets,
    cxcywh_to_xyxy,
    iou_and_giou,
)

LAYERS, BATCH, QUERIES, CLASSES = 2, 2, 5, 3
# The number of objects in make_targets().
NORMALIZER = torch.tensor(3.0, dtype=torch.float64)


def make_predictions(requires_grad=False) -> Predictions:
    tensors = {
        "logits": torch.randn(LAYERS, BATCH, QUERIES, CLASSES, dtype=torch.float64),
        "boxes": torch.rand(LAYERS, BATCH, QUERIES, 4, dtype=torch.float64) * 0.4 + 0.3,
        "points": torch.rand(LAYERS, BATCH, QUERIES, 2, dtype=torch.float64),
        "objectness": torch.randn(LAYERS, BATCH, QUERIES, 1, dtype=torch.float64),
    }
    return Predictions(**{k: v.requires_grad_(requires_grad) for k, v in tensors.items()})


def make_targets() -> Targets:
    boxes = torch.rand(BATCH, 2, 4, dtype=torch.float64) * 0.4 + 0.3
    boxes[1, 1] = 0
    labels = torch.tensor([[2, 0], [1, 0]])
    return Targets(boxes, labels, (2, 1))


def make_matches() -> Matches:
    query = torch.tensor([[0, 3, 1], [2, 4, 0]])
    target = torch.tensor([[1, 0, 0], [0, 1, 0]])
    return Matches(torch.tensor([0, 0, 1]), query, target, (2, 1))


def pairs(matches):
    """(layer, image, query, object) of every pair."""
    for layer in range(LAYERS):
        for image, found in enumerate(matches.per_image(layer)):
            for query, target in zip(*found, strict=True):
                yield layer, image, int(query), int(target)


@pytest.mark.parametrize("with_objectness", [False, True])
def test_focal_class_cost(with_objectness):
    predictions, targets = make_predictions(), make_targets()
    cost = FocalClassCost(weight=2.0, with_objectness=with_objectness)(predictions, targets)
    assert cost.shape == (LAYERS, BATCH, QUERIES, 2)
    p = 1 / (1 + math.exp(-predictions.logits[1, 0, 3, 2].item()))
    if with_objectness:
        p /= 1 + math.exp(-predictions.objectness[1, 0, 3, 0].item())
    wanted = -0.25 * (1 - p) ** 2 * math.log(p + 1e-8)
    wanted += 0.75 * p**2 * math.log(1 - p + 1e-8)
    assert cost[1, 0, 3, 0].item() == pytest.approx(2 * wanted)


def test_l1_on_corners_differs_from_l1_on_centres():
    predictions, targets, matches = make_predictions(), make_targets(), make_matches()
    corners = cxcywh_to_xyxy(predictions.boxes), cxcywh_to_xyxy(targets.boxes)
    distance = (corners[0][..., None, :] - corners[1][:, None]).abs().sum(-1)
    cost = L1BoxCost(5.0, corners=True)(predictions, targets)
    assert torch.allclose(cost, 5 * distance)
    loss = L1BoxLoss(corners=True)(predictions, targets, matches, NORMALIZER)
    for layer in range(LAYERS):
        total = sum(distance[pair] for pair in pairs(matches) if pair[0] == layer)
        assert torch.allclose(loss[layer], total / 3)
    assert not torch.allclose(cost, L1BoxCost(5.0)(predictions, targets))
    assert not torch.allclose(loss, L1BoxLoss()(predictions, targets, matches, NORMALIZER))


def test_a_point_inside_the_box_decides_the_matching():
    targets = Targets(torch.tensor([[[0.5, 0.5, 0.2, 0.2]]]), torch.tensor([[0]]), (1,))
    predictions = Predictions(
        logits=torch.tensor([[[[9.0], [-9.0], [9.0]]]]),
        boxes=torch.tensor([[[[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]]]]),
        # On the border counts as inside.
        points=torch.tensor([[[[0.5, 0.61], [0.6, 0.5], [0.39, 0.5]]]]),
    )
    others = {
        "class": FocalClassCost(),
        "bbox": L1BoxCost(corners=True),
        "giou": GIoUCost(eps=1e-6),
    }
    assert HungarianMatcher(others)([predictions], targets)[0].query.tolist() in ([[0]], [[2]])
    matches = HungarianMatcher({**others, "outside": OutsidePointCost()})([predictions], targets)[0]
    assert matches.query.tolist() == [[1]]
    assert OutsidePointCost()(predictions, targets).flatten().tolist() == [9999, 0, 9999]


def test_focal_class_loss_is_torchvisions_for_one_hot_targets():
    predictions, targets, matches = make_predictions(), make_targets(), make_matches()
    wanted = torch.zeros_like(predictions.logits)
    for layer, image, query, target in pairs(matches):
        wanted[layer, image, query, targets.labels[image, target]] = 1
    expected = sigmoid_focal_loss(predictions.logits, wanted).sum((1, 2, 3)) / 3
    assert torch.allclose(FocalClassLoss()(predictions, targets, matches, NORMALIZER), expected)


def test_objectness_loss_is_trained_towards_the_iou_and_moves_the_box():
    predictions, targets, matches = make_predictions(True), make_targets(), make_matches()
    values = ObjectnessLoss()(predictions, targets, matches, NORMALIZER)
    expected = torch.zeros(LAYERS, dtype=torch.float64)
    wanted = {}
    for layer, image, query, target in pairs(matches):
        boxes = (predictions.boxes[layer, image, query], targets.boxes[image, target])
        wanted[layer, image, query], _ = iou_and_giou(*map(cxcywh_to_xyxy, boxes), eps=1e-6)
    for layer in range(LAYERS):
        for image in range(BATCH):
            for query in range(QUERIES):
                u = wanted.get((layer, image, query), torch.tensor(0.0, dtype=torch.float64))
                s = predictions.objectness[layer, image, query, 0].sigmoid()
                q = s * u + (1 - s) * (1 - u)
                cross_entropy = -u * s.log() - (1 - u) * (1 - s).log()
                balance = 0.25 * u + 0.75 * (1 - u)
                expected[layer] = expected[layer] + balance * (1 - q) ** 2 * cross_entropy / 3
    assert torch.allclose(values, expected)
    inputs = (predictions.boxes, predictions.objectness)
    ours = torch.autograd.grad(values.sum(), inputs)
    theirs = torch.autograd.grad(expected.sum(), inputs)
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
    assert ours[0][0, 0, 0].abs().sum() > 0


def test_outside_points_are_counted_per_object():
    targets, matches = make_targets(), make_matches()
    predictions = make_predictions()
    centres = torch.full_like(predictions.points, 5.0)
    for layer, image, query, target in pairs(matches):
        centres[layer, image, query] = targets.boxes[image, target, :2]
    centres[1, 1, 0] = -1
    moved = Predictions(predictions.logits, predictions.boxes, centres)
    values = OutsidePoints()(moved, targets, matches, NORMALIZER)
    assert values.tolist() == pytest.approx([0, 1 / 3])


@pytest.mark.parametrize(
    "call",
    [
        lambda p, t, m: FocalClassCost(with_objectness=True)(p, t),
        lambda p, t, m: OutsidePointCost()(p, t),
        lambda p, t, m: ObjectnessLoss()(p, t, m, NORMALIZER),
        lambda p, t, m: OutsidePoints()(p, t, m, NORMALIZER),
    ],
)
def test_terms_say_which_prediction_is_missing(call):
    predictions = make_predictions()
    bare = Predictions(predictions.logits, predictions.boxes)
    with pytest.raises(ValueError, match=r"needs a decoder that predicts (points|objectness)"):
        call(bare, make_targets(), make_matches())


def test_last_layer_keeps_what_is_missing_missing():
    predictions = make_predictions()
    last = Predictions(predictions.logits, predictions.boxes, predictions.points).last_layer
    assert last.objectness is None
    assert torch.equal(last.points, predictions.points[-1:])


def test_top_pairs_may_take_a_query_twice():
    logits = torch.tensor([[[[1.0, 3.0], [2.0, -1.0], [-5.0, -6.0]]]])
    boxes = torch.tensor([[[[0.5, 0.5, 0.2, 0.4], [0.25, 0.25, 0.7, 0.5], [0.5, 0.5, 1, 1]]]])
    (found,) = SigmoidTopKPostprocessor(3)(Predictions(logits, boxes), [(100, 200)])
    assert found.image_size == (100, 200)
    assert found.pred_classes.tolist() == [1, 0, 0]
    assert torch.allclose(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    # Not clipped to the image.
    expected = [[80.0, 30, 120, 70], [-20, 0, 120, 50], [80, 30, 120, 70]]
    assert torch.allclose(found.pred_boxes.tensor, torch.tensor(expected), atol=1e-4)
    (everything,) = SigmoidTopKPostprocessor(300)(Predictions(logits, boxes), [(100, 200)])
    assert len(everything) == 6
