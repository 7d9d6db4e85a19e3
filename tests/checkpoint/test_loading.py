from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from sap_detr.checkpoint import CheckpointError, load_weights, save_checkpoint_file, unwrap_model
from sap_detr.checkpoint.class_rows import COCO_CATEGORY_IDS
from sap_detr.modeling import DETR

HEAD = "decoder.class_head.weight"
INITIAL = -7.0


@pytest.fixture
def ours(published_detr):
    """A state dict of ours with the given number of classes."""
    return lambda num_classes: DETR.to_ours(published_detr(num_classes))


@pytest.fixture
def model(ours, state_model):
    return lambda num_classes: state_model(ours(num_classes), num_classes)


def test_own_checkpoint_fills_the_model(ours, model, tmp_path):
    state, target = ours(5), model(5)
    save_checkpoint_file({"model": state, "iteration": 3}, tmp_path / "model.pth")
    report = load_weights(target, tmp_path / "model.pth")
    assert report.format == "ours"
    assert report.complete
    assert set(report.loaded) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())
    report.require_complete()


@pytest.mark.parametrize(("rows", "classes"), [(91, 80), (80, 91), (80, 80), (91, 91)])
def test_published_coco_checkpoint_fits_either_number_of_classes(
    published_detr, model, rows, classes
):
    target, state = model(classes), published_detr(rows)
    report = load_weights(target, {"model": state, "epoch": 1})
    head, source = target.state_dict()[HEAD], state["class_embed.weight"]
    ids = list(COCO_CATEGORY_IDS)
    assert torch.equal(
        head[:80] if classes == 80 else head[ids], source[:80] if rows == 80 else source[ids]
    )
    assert torch.equal(head[-1], source[-1])
    assert report.complete == ((rows, classes) != (80, 91))
    if classes == rows:
        assert torch.equal(head, source)
    if classes > rows:
        assert (head[0] == INITIAL).all()
        assert report.partially_loaded[HEAD] == (81, 92)


def test_rows_are_copied_by_name_and_others_keep_initial_values(ours, model):
    target, state = model(3), ours(4)
    checkpoint = {"model": state, "class_names": ["dog", "cat", "bird", "cow"]}
    report = load_weights(target, checkpoint, class_names=["Cat ", "zebra", "dog"])
    head = target.state_dict()[HEAD]
    assert torch.equal(head[[0, 2, 3]], state[HEAD][[1, 0, 4]])
    assert (head[1] == INITIAL).all()
    assert report.partially_loaded[HEAD] == (3, 4)
    assert report.partially_loaded["decoder.class_head.bias"] == (3, 4)
    assert "zebra" in str(report)
    with pytest.raises(CheckpointError, match="initial values"):
        report.require_complete()


def test_same_number_but_other_order_is_permuted(ours, model):
    target, state = model(3), ours(3)
    checkpoint = {"model": state, "class_names": ["c", "a", "b"]}
    assert load_weights(target, checkpoint, class_names=["a", "b", "c"]).complete
    assert torch.equal(target.state_dict()[HEAD], state[HEAD][[1, 2, 0, 3]])


def test_published_rows_of_coco_are_not_taken_for_80_other_classes(published_detr, model):
    target = model(80)
    names = [f"part {index}" for index in range(79)] + ["zebra"]
    load_weights(target, published_detr(80), class_names=names)
    head = target.state_dict()[HEAD]
    assert (head[:79] == INITIAL).all()
    assert torch.equal(head[79], published_detr(80)["class_embed.weight"][22])


@pytest.mark.parametrize(
    ("names", "stored"), [(None, None), (["a", "b"], None), (None, ["a", "b", "c"])]
)
def test_unknown_names_and_other_number_reinitialise_all_but_no_object(ours, model, names, stored):
    target, state = model(2), ours(3)
    report = load_weights(target, {"model": state, "class_names": stored}, class_names=names)
    head = target.state_dict()[HEAD]
    assert (head[:2] == INITIAL).all()
    assert torch.equal(head[2], state[HEAD][3])
    assert report.partially_loaded[HEAD] == (1, 3)
    assert "class names are unknown" in str(report)


def test_sigmoid_head_has_no_further_row(ours, state_model):
    shapes = {name: value[:3] if "class_head" in name else value for name, value in ours(3).items()}
    target, state = state_model(shapes, 3), dict(shapes)
    assert load_weights(target, state, class_names=["a", "b", "c"]).complete
    assert torch.equal(target.state_dict()[HEAD], state[HEAD])
    other = {**state, **{name: value[:2] for name, value in state.items() if "class_head" in name}}
    target = state_model(shapes, 3)
    assert HEAD in load_weights(target, other).reinitialised
    assert (target.state_dict()[HEAD] == INITIAL).all()


@pytest.mark.parametrize(
    ("names", "stored", "message"),
    [
        (["a", "b"], None, "The model has 5 classes, but 2 class names"),
        (None, ["a", "b"], "The checkpoint has 6 classes, but 2 class names"),
    ],
)
def test_names_must_fit_the_number_of_rows(ours, model, names, stored, message):
    with pytest.raises(CheckpointError, match=message):
        load_weights(model(5), {"model": ours(6), "class_names": stored}, class_names=names)


def test_other_shapes_are_an_error_unless_listed(ours, model):
    state, target = ours(5), model(5)
    state["decoder.query_embed.weight"] = torch.ones(9, 2)
    with pytest.raises(CheckpointError, match=r"query_embed\.weight: \(9, 2\), model \(2, 2\)"):
        load_weights(target, state)
    assert all((value == INITIAL).all() for value in target.state_dict().values())
    report = load_weights(target, state, reinitialise=["decoder.query_embed.*", "*.norm3.bias"])
    assert "decoder.query_embed.weight" in report.reinitialised
    assert len(report.reinitialised) == 7
    assert (target.state_dict()["decoder.query_embed.weight"] == INITIAL).all()
    with pytest.raises(ValueError, match=r"'decoder\.query' matches no tensor"):
        load_weights(target, state, reinitialise=["decoder.query"])


def test_class_head_of_other_width_is_an_error(ours, model):
    state = ours(5)
    state[HEAD] = torch.ones(6, 9)
    with pytest.raises(CheckpointError, match="rows of the class head"):
        load_weights(model(5), state)


def test_imagenet_backbone_is_enough_to_start_but_not_to_evaluate(published_detr, model, caplog):
    prefix = "backbone.0.body."
    state = {
        name.removeprefix(prefix): value
        for name, value in published_detr().items()
        if name.startswith(prefix)
    } | {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3)}
    target = model(5)
    with caplog.at_level(logging.INFO):
        report = load_weights(target, state)
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert len(report.loaded) == 265
    assert set(report.ignored) == {"fc.weight", "fc.bias"}
    assert not any(name.startswith("backbone.") for name in report.missing)
    assert torch.equal(
        target.state_dict()["backbone.res5.0.shortcut.weight"],
        state["layer4.0.downsample.0.weight"],
    )
    with pytest.raises(CheckpointError, match="does not fill the whole model"):
        report.require_complete()


def test_backbone_of_other_depth_is_an_error(ours, model):
    deeper = ours(5) | {"backbone.res4.6.conv1.weight": torch.ones(2, 2)}
    with pytest.raises(CheckpointError, match="another depth: res4 has 7 blocks, in the model 6"):
        load_weights(model(5), deeper)
    shallower = {n: v for n, v in ours(5).items() if not n.startswith("backbone.res3.3.")}
    with pytest.raises(CheckpointError, match="another depth: res3"):
        load_weights(model(5), shallower)


def test_missing_and_surplus_tensors_are_warned_of(ours, model, caplog):
    state = ours(5)
    del state["decoder.norm.weight"]
    state["decoder.extra.weight"] = torch.ones(1)
    report = load_weights(model(5), state)
    assert report.missing == ["decoder.norm.weight"]
    assert report.ignored == ["decoder.extra.weight"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "decoder.norm " in caplog.text
    assert len(str(report).splitlines()) < 20


def test_nothing_in_common_and_only_the_backbone_in_common(ours, state_model, published_detr):
    state = ours(5)
    other = state_model({"encoder.blocks.0.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="nothing in common"):
        load_weights(other, state)
    backbone = {name: value for name, value in state.items() if name.startswith("backbone.")}
    other = state_model(backbone | {"decoder.x": torch.ones(1)})
    with pytest.raises(CheckpointError, match="only its backbone"):
        load_weights(other, published_detr())
    assert len(load_weights(other, backbone).loaded) == len(backbone)


def test_values_are_cast_to_the_models_dtype(ours, model):
    target = model(3).double()
    state = {name: value.bfloat16() for name, value in ours(3).items()}
    checkpoint = {"model": state, "class_names": ["b", "a", "z"]}
    load_weights(target, checkpoint, class_names=["a", "b", "c"])
    assert {value.dtype for value in target.state_dict().values()} == {torch.float64}


def test_wrapped_model_is_loaded_inside(ours, model):
    inner = model(5)
    wrapped = torch.compile(nn.DataParallel(inner))
    assert unwrap_model(wrapped) is inner
    assert load_weights(wrapped, ours(5)).complete


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_refused_and_named(ours, model, value):
    state, target = ours(5), model(5)
    name = "decoder.query_embed.weight"
    state[name] = torch.full_like(state[name], value)
    with pytest.raises(CheckpointError, match=rf"the given .* 1 tensors, e.g. {name}: .*earlier"):
        load_weights(target, {"model": state})
    assert (target.state_dict()[name] == INITIAL).all()
    load_weights(target, {"model": state}, reinitialise=[name])
