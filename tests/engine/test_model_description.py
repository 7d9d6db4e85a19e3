"""Weights that bring a description of their model, and descriptions that are refused."""

from __future__ import annotations

import json
import struct

import pytest
import torch

import sap_detr.checkpoint.safe_load as safe_load
from sap_detr.checkpoint import (
    CheckpointError,
    load_checkpoint_file,
    load_weights,
    save_checkpoint_file,
)
from sap_detr.config import ConfigError, list_configs, load_config, prepare_data
from sap_detr.engine import DetectionTrainer, ModelDescription, setup_run


@pytest.mark.parametrize("name", list_configs())
def test_every_recipe_is_described_by_plain_data(name):
    description = ModelDescription.from_config(load_config(name))
    again = ModelDescription.from_data(json.loads(json.dumps(description.as_data())))
    assert again == description


@pytest.fixture
def data(tiny_config):
    return ModelDescription.from_config(tiny_config).as_data()


FOREIGN = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "torch.load",
    "detectron2.config.instantiate",
    "sap_detr.config.os.system",  # by way of a module of ours
    "sap_detr.modeling.backbone.ResNet",
    "sap_detr.modeling.backbone.nn.Linear",
    "sap_detr.checkpoint.save_checkpoint_file",
    "sap_detr.data.register_coco_folder",
    "sap_detr.modeling.box_ops.iou_and_giou",  # a function that builds nothing
    "sap_detr.modeling.backbone._fast",
    "sap_detr.projects.unknown.Decoder",
    "sap_detr.modeling.decoders",
    "sap_detr.modeling..DetrDecoder",
    "",
    7,
    ["os.system"],
    {"_target_": "os.system"},
]


@pytest.mark.parametrize("target", FOREIGN, ids=str)
@pytest.mark.parametrize("where", ["model", "augmentations", "deep"])
def test_foreign_targets_are_refused_before_anything_is_built(target, where, data, monkeypatch):
    def build(*_):
        raise AssertionError("built")

    monkeypatch.setattr("sap_detr.engine.model_description.instantiate", build)
    foreign = {"_target_": target, "command": "true"}
    if where == "deep":
        data["model"]["neck"] = {"options": [1, [foreign]]}
    else:
        data[where] = foreign
    with pytest.raises(CheckpointError, match=r"names .* none of the parts") as error:
        ModelDescription.from_data(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 2}, "format 2"),
        ({"model": []}, "no dict"),
        ({"model": {}}, "_target_"),
        ({"image_format": "HSV"}, "image_format"),
        ({"pixel_range": "dark"}, "pixel_range must be"),
        ({"more": 1}, "keys"),
    ],
)
def test_other_content_is_refused(change, message, data):
    with pytest.raises(CheckpointError, match=message):
        ModelDescription.from_data({**data, **change})


def test_arguments_that_a_part_does_not_take_are_told(data):
    data["model"]["backbone"]["colour"] = 1
    with pytest.raises(CheckpointError, match=r"can't be built as described.*colour"):
        ModelDescription.from_data(data).build_model("cpu")


def test_a_model_with_foreign_parts_is_not_described(tiny_config):
    tiny_config.model.backbone = {"_target_": "collections.OrderedDict"}
    with pytest.raises(ConfigError, match=r"model\.backbone names 'collections\.OrderedDict'"):
        ModelDescription.from_config(tiny_config)


def safetensors_with(path, description_text):
    """Write a file as foreign programs might."""
    header = {
        "__metadata__": {"format": "pt", "description": description_text},
        "weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    return path


@pytest.mark.parametrize(
    "text, message",
    [
        ('"' + "a" * 2**20 + '"', "characters long"),
        ('"' + "a" * 11 * 2**20 + '"', "its header has"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("[" * 200_000 + "]" * 200_000, "nested more than 32 deep"),
        ("{", "no JSON"),
    ],
    ids=["long", "longer", "deep", "bomb", "broken"],
)
def test_bombs_in_metadata_are_refused_with_one_line(text, message, tmp_path):
    path = safetensors_with(tmp_path / "bomb.safetensors", text)
    with pytest.raises(CheckpointError, match=f"bomb.safetensors was not loaded.*{message}") as e:
        load_checkpoint_file(path)
    assert len(str(e.value)) < 400
    assert "\n" not in str(e.value)


def test_what_would_not_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_load, "MAX_TEXT", 10)
    content = {"model": {"a": torch.zeros(1)}, "description": {"text": "a" * 20}}
    with pytest.raises(CheckpointError, match="characters long"):
        save_checkpoint_file(content, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_description_is_noticed(data, tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint_file({"model": {"a": torch.zeros(1)}, "description": data}, path)
    content = path.read_bytes()
    assert content.count(b'\\"short_side\\": 64') == 1
    path.write_bytes(content.replace(b'\\"short_side\\": 64', b'\\"short_side\\": 65'))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint_file(path)


def test_training_leaves_the_scored_weights_with_their_model(tiny_overrides, tmp_path):
    changes = [*tiny_overrides, "train.ema.enabled=true", "train.ema.decay=0.9"]
    cfg = load_config("detr/detr_small_shapes.py", [*changes, "train.max_iter=2"])
    names = prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    for name in ("model_final", "model_best"):
        both = load_checkpoint_file(tmp_path / "run" / f"{name}.pth")
        alone = load_checkpoint_file(tmp_path / "run" / f"{name}.safetensors")
        assert alone["class_names"] == names
        assert alone["model"].keys() == both["model"].keys()
        assert all(torch.equal(alone["model"][key], both["model"][key]) for key in both["model"])
        key = "decoder.query_embed.weight"
        assert not torch.equal(alone["model"][key], both["raw_model"][key])
        model = ModelDescription.from_data(alone["description"]).build_model("cpu")
        load_weights(model, alone, class_names=names).require_complete()
