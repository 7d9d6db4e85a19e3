"""Hugging Face's DETR: names both ways, and the numbers of transformers' own class."""

import json
from functools import cache

import hugging_face_detr as recorded
import pytest
import torch
from detectron2.config import instantiate
from safetensors.torch import save_file

from sap_detr import cli
from sap_detr.checkpoint import NAME_MAPS, CheckpointError, load_checkpoint_file, load_weights
from sap_detr.checkpoint.name_map import detect_format
from sap_detr.config import load_config

CASES = json.loads(recorded.FILE.read_text())
FORMS = [form for form in CASES if form != "transformers"]


def make_state(form):
    return dict(make_values(form))


@cache
def make_values(form):
    shapes = CASES[form]["shapes"]
    return {name: recorded.values_of(name, shape) for name, shape in shapes.items()}


def make_model(form):
    config = "detr/detr_dc5_r50_500ep.py" if form.endswith("dc5") else "detr/detr_r50_500ep.py"
    cfg = load_config(config).model
    sizes = recorded.COMMON
    cfg.num_classes = sizes["num_labels"]
    cfg.neck.embed_dim = sizes["d_model"]
    for part in ("encoder", "decoder"):
        cfg[part].num_layers = sizes[f"{part}_layers"]
        cfg[part].ffn_dim = sizes[f"{part}_ffn_dim"]
        cfg[part].num_heads = sizes[f"{part}_attention_heads"]
    cfg.decoder.num_queries = sizes["num_queries"]
    return instantiate(cfg).double().eval()


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_numbers_are_those_of_transformers(form):
    model = make_model(form)
    load_weights(model, make_state(form)).require_complete()
    found = model.predict(recorded.batch(), recorded.SIZES)
    for value, name in ((found.logits[-1], "logits"), (found.boxes[-1], "boxes")):
        expected = torch.tensor(CASES[form][name], dtype=torch.float64)
        assert expected.std() > 0.01
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_names_there_and_back(form):
    state = make_state(form)
    method = form.split()[0]
    assert detect_format(state) == method
    ours = NAME_MAPS[method].to_ours(state)
    assert make_model(form).state_dict().keys() == ours.keys()
    again = NAME_MAPS[method].to_published(ours)
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(again[name], value), name


def convert(*arguments):
    assert cli.main(["convert", *map(str, arguments)]) == 0


def test_files_are_converted_both_ways(tmp_path):
    names = ("theirs", "ours", "again", "facebook")
    files = {name: tmp_path / f"{name}.safetensors" for name in names}
    state = make_state("hugging_face_detr_resnet")
    save_file(state, files["theirs"])
    published = ("--to", "published")
    convert(files["theirs"], files["ours"])
    convert(files["ours"], files["again"], *published, "--method", "hugging_face_detr_resnet")
    again = load_checkpoint_file(files["again"])["model"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    # One method has several published forms: without a name, its authors' is meant.
    convert(files["ours"], files["facebook"], *published)
    assert detect_format(load_checkpoint_file(files["facebook"])["model"]) == "detr"


def test_attention_without_one_of_its_parts_is_refused():
    state = make_state("hugging_face_detr")
    name = "model.encoder.layers.1.self_attn.k_proj.weight"
    short = {**state, name: state[name][:-1]}
    del state[name]
    with pytest.raises(CheckpointError, match=r"1\.self_attn\.k_proj\.weight is missing beside"):
        NAME_MAPS["hugging_face_detr"].to_ours(state)
    with pytest.raises(CheckpointError, match="should have the same shape"):
        NAME_MAPS["hugging_face_detr"].to_ours(short)


def test_resnet_101_has_names_too():
    names = NAME_MAPS["hugging_face_detr"]
    theirs = "model.backbone.conv_encoder.model.layer3.22.bn3.running_var"
    assert names.ours(theirs) == "backbone.res4.22.conv3.norm.running_var"
    theirs = (
        "model.backbone.conv_encoder.model.encoder.stages.2.layers.22.layer.1.convolution.weight"
    )
    assert NAME_MAPS["hugging_face_detr_resnet"].ours(theirs) == "backbone.res4.22.conv2.weight"
