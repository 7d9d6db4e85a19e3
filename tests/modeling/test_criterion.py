import pytest
import torch
from detectron2.utils.events import EventStorage

from sap_detr.modeling import (
    CardinalityError,
    ClassError,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    L1BoxCost,
    L1BoxLoss,
    SetCriterion,
    SoftmaxClassCost,
    SoftmaxClassLoss,
    layer_keys,
)


@pytest.fixture
def criterion() -> SetCriterion:
    return SetCriterion(
        matcher=HungarianMatcher([SoftmaxClassCost(), L1BoxCost(), GIoUCost()]),
        losses=[SoftmaxClassLoss(0.5), L1BoxLoss(3.0), GIoULoss(7.0)],
        metrics=[ClassError(), CardinalityError()],
        metric_period=3,
    )


def test_keys_have_the_layer_as_a_suffix_but_for_the_last():
    assert layer_keys("loss_bbox", 3) == ["loss_bbox_0", "loss_bbox_1", "loss_bbox"]
    assert layer_keys("loss_bbox", 1) == ["loss_bbox"]


def test_losses_are_weighted_and_by_layer(criterion, make_predictions, make_targets):
    predictions, targets = make_predictions(3, 2, 5), make_targets((2, 3))
    losses = criterion(predictions, targets)
    names = ("loss_class", "loss_bbox", "loss_giou")
    assert list(losses) == [key for name in names for key in layer_keys(name, 3)]
    matches = criterion.matcher(predictions, targets)
    for loss, weight in zip(criterion.losses, (0.5, 3.0, 7.0), strict=True):
        values = loss(predictions, targets, matches)
        for key, value in zip(layer_keys(loss.name, 3), values, strict=True):
            torch.testing.assert_close(losses[key], weight * value)
            assert losses[key].shape == ()


def test_last_layer_alone_has_the_losses_without_suffix(criterion, make_predictions, make_targets):
    predictions, targets = make_predictions(3, 2, 5), make_targets((2, 3))
    all_layers, last = criterion(predictions, targets), criterion(predictions.last_layer, targets)
    assert list(last) == ["loss_class", "loss_bbox", "loss_giou"]
    for key, value in last.items():
        torch.testing.assert_close(value, all_layers[key])


def test_metrics_are_logged_at_their_period(criterion, make_predictions, make_targets):
    predictions, targets = make_predictions(2, 2, 5), make_targets((2, 3))
    matches = criterion.matcher(predictions, targets)
    with EventStorage() as storage:
        for _ in range(7):
            losses = criterion(predictions, targets)
            assert not {"class_error", "cardinality_error"} & losses.keys()
            storage.step()
        for metric in criterion.metrics:
            value = float(metric(predictions, targets, matches)[-1])
            logged = storage.history(metric.name).values()
            assert [iteration for _, iteration in logged] == [2, 5]
            assert [x for x, _ in logged] == pytest.approx([value] * 2)


def test_no_event_storage_is_needed(criterion, make_predictions, make_targets):
    assert criterion(make_predictions(1, 1, 4), make_targets((1,)))


def test_nothing_waits_for_the_device_but_the_matcher(
    criterion, make_predictions, make_targets, copies_to_host
):
    predictions, targets = make_predictions(3, 2, 5), make_targets((2, 3))
    with EventStorage(1):  # not an iteration that metrics are logged at
        copies = copies_to_host(lambda: sum(criterion(predictions, targets).values()).backward())
    assert copies == ["cpu"]


@pytest.mark.parametrize("num_objects", [(0, 0), (3, 0), (9, 9)])
def test_every_trained_parameter_gets_a_gradient(build_tiny_detr, make_inputs, num_objects):
    model = build_tiny_detr().train()
    losses = model(make_inputs([(64, 64), (64, 48)], num_objects))
    assert all(value.isfinite() for value in losses.values())
    if not any(num_objects):
        assert all(value == 0 for key, value in losses.items() if "class" not in key)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.decoder.class_head.weight.grad.any()
    assert model.decoder.box_head.layers[0].weight.grad.any() == any(num_objects)
