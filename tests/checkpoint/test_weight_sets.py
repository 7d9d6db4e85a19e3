"""One set of weights is handed out, that which was scored; the other on request."""

import pytest
import torch

from sap_detr.checkpoint import CheckpointError
from sap_detr.checkpoint.weight_sets import describe_weights, model_state, raw_first, scored_first

RAW = {"a.weight": torch.ones(1), "b": torch.ones(1)}
AVERAGE = {name: value + 1 for name, value in RAW.items()}


def in_training(updates):
    return {"model": RAW, "ema": {**AVERAGE, "num_updates": torch.tensor(updates)}, "trainer": {}}


@pytest.mark.parametrize(
    "checkpoint",
    [
        RAW,
        {"model": RAW, "epoch": 3},
        {"state_dict": {f"module.{name}": value for name, value in RAW.items()}},
        {"model": {f"module._orig_mod.{name}": value for name, value in RAW.items()}},
        # Somebody else's average, in another form.
        {"model": RAW, "ema": {"module": AVERAGE}},
    ],
)
@pytest.mark.parametrize("weights", ["scored", "raw"])
def test_where_there_is_one_set(checkpoint, weights):
    assert model_state(checkpoint, weights) == RAW
    assert describe_weights(checkpoint, weights) == "its only weights"


@pytest.mark.parametrize("wrong", [{}, {"model": {}}, {"epoch": 3}, {"model": {"a": 1}}])
def test_where_there_is_none(wrong):
    with pytest.raises(CheckpointError, match="No state dict"):
        model_state(wrong)


@pytest.mark.parametrize("form", [dict, scored_first], ids=["as earlier versions wrote it", "now"])
def test_the_average_was_scored(form):
    checkpoint = form(in_training(3))
    assert model_state(checkpoint) == AVERAGE
    assert model_state(checkpoint, "raw") == RAW
    assert "moving average of its weights" in describe_weights(checkpoint)
    assert describe_weights(checkpoint, "raw").startswith("its raw weights")
    again = raw_first(checkpoint)
    assert again == in_training(3)


def test_an_average_without_updates_is_none_yet():
    checkpoint = scored_first(in_training(0))
    assert model_state(checkpoint) == model_state(checkpoint, "raw") == RAW
    assert "no moving average yet" in describe_weights(checkpoint)
    assert raw_first(checkpoint)["ema"]["num_updates"] == 0


def test_other_words_are_an_error():
    with pytest.raises(ValueError, match="weights=average: one of scored, raw"):
        model_state(RAW, "average")
