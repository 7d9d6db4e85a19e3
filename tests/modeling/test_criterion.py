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
    object_normalizer,
)

NORMALIZER = torch.tensor(5.0, dtype=torch.float64)


@pytest.fixture
def criterion() -> SetCriterion:
    return SetCriterion(
        matcher=HungarianMatcher(
            {"class": SoftmaxClassCost(), "bbox": L1BoxCost(), "giou": GIoUCost()}
        ),
        losses={"class": SoftmaxClassLoss(0.5), "bbox": L1BoxLoss(3.0), "giou": GIoULoss(7.0)},
        metrics={"class_error": ClassError(), "cardinality_error": CardinalityError()},
        metric_period=3,
    )


def test_keys_have_the_layer_as_a_suffix_but_for_the_last():
    assert layer_keys("loss_bbox", 3) == ["loss_bbox_0", "loss_bbox_1", "loss_bbox"]
    assert layer_keys("loss_bbox", 1) == ["loss_bbox"]


def test_configs_name_terms(build_tiny_detr):
    model = build_tiny_detr("model.criterion.losses.class.weight=3.5")
    assert {name: loss.weight for name, loss in model.criterion.losses.items()} == {
        "class": 3.5,
        "bbox": 5.0,
        "giou": 2.0,
    }
    assert list(model.criterion.matcher.costs) == ["class", "bbox", "giou"]


def test_losses_are_weighted_and_by_layer(criterion, make_predictions, make_targets):
    predictions, targets = make_predictions(3, 2, 5), make_targets((2, 3))
    losses = criterion(predictions, targets, NORMALIZER)
    names = ("loss_class", "loss_bbox", "loss_giou")
    assert list(losses) == [key for name in names for key in layer_keys(name, 3)]
    matches = criterion.matcher([predictions], targets)[0]
    for (name, loss), weight in zip(criterion.losses.items(), (0.5, 3.0, 7.0), strict=True):
        values = loss(predictions, targets, matches, NORMALIZER)
        for key, value in zip(layer_keys(f"loss_{name}", 3), values, strict=True):
            torch.testing.assert_close(losses[key], weight * value)
            assert losses[key].shape == ()


def test_last_layer_alone_has_the_losses_without_suffix(criterion, make_predictions, make_targets):
    predictions, targets = make_predictions(3, 2, 5), make_targets((2, 3))
    all_layers = criterion(predictions, targets, NORMALIZER)
    last = criterion(predictions.last_layer, targets, NORMALIZER)
    assert list(last) == ["loss_class", "loss_bbox", "loss_giou"]
    for key, value in last.items():
        torch.testing.assert_close(value, all_layers[key])


def test_metrics_are_logged_at_their_period(criterion, make_predictions, make_targets):
    predictions, targets = make_predictions(2, 2, 5), make_targets((2, 3))
    matches = criterion.matcher([predictions], targets)[0]
    with EventStorage() as storage:
        for _ in range(7):
            losses = criterion(predictions, targets, NORMALIZER)
            assert not {"class_error", "cardinality_error"} & losses.keys()
            storage.step()
        for name, metric in criterion.metrics.items():
            value = float(metric(predictions, targets, matches, NORMALIZER)[-1])
            logged = storage.history(name).values()
            assert [iteration for _, iteration in logged] == [2, 5]
            assert [x for x, _ in logged] == pytest.approx([value] * 2)


@pytest.mark.parametrize("num_objects, expected", [(0, 1), (0.5, 1), (2.5, 2.5), (7, 7)])
def test_normalizer_is_the_number_of_objects_and_at_least_one(num_objects, expected):
    like = torch.zeros(3, dtype=torch.float64)
    normalizer = object_normalizer(num_objects, like)
    assert normalizer.shape == ()
    assert normalizer.dtype == torch.float64
    assert normalizer == expected


def test_normalizer_is_the_mean_over_processes(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    # The other process has 5 objects.
    monkeypatch.setattr("torch.distributed.all_reduce", lambda x: x.add_(5))
    assert object_normalizer(2, torch.zeros(1)) == 3.5


def test_known_matches_are_scored_like_those_of_the_matcher(
    criterion, make_predictions, make_targets
):
    predictions, targets = make_predictions(3, 2, 5), make_targets((2, 3))
    matches = criterion.matcher([predictions], targets)[0]
    found = criterion.weighted_losses(predictions, targets, matches, NORMALIZER)
    assert found == criterion(predictions, targets, NORMALIZER)


def test_no_event_storage_is_needed(criterion, make_predictions, make_targets):
    assert criterion(make_predictions(1, 1, 4), make_targets((1,)), NORMALIZER)


def test_nothing_waits_for_the_device_but_the_matcher(
    criterion, make_predictions, make_targets, copies_to_host
):
    predictions, targets = make_predictions(3, 2, 5), make_targets((2, 3))
    with EventStorage(1):  # not an iteration that metrics are logged at
        copies = copies_to_host(
            lambda: sum(criterion(predictions, targets, NORMALIZER).values()).backward()
        )
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
