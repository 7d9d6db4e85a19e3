from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig

from sap_detr import cli
from sap_detr.checkpoint import coco_class_names, load_checkpoint_file
from sap_detr.checkpoint.class_rows import COCO_CATEGORY_IDS, UNUSED_CLASS_BIAS
from sap_detr.engine import ModelDescription, build_model

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "detr_r50_91.json"


@pytest.fixture(scope="module")
def main():
    return lambda *arguments: cli.main(["convert", *map(str, arguments)])


def write_published(path, num_classes=91, extra_names=(), **extra):
    """A checkpoint with DETR-R50's published names and tiny tensors, all with other values."""
    names = [*json.loads(GOLDEN.read_text())["parameters"], *extra_names]
    state = {
        name: torch.arange(num_classes + 1.0 if name.startswith("class") else 2.0) + 100 * index
        for index, name in enumerate(names)
    }
    torch.save({"model": state, **extra}, path)
    return state


def test_published_to_ours_and_back(main, tmp_path, capsys):
    source, ours, back = (tmp_path / name for name in ("detr.pth", "ours.safetensors", "back.pth"))
    state = write_published(source, optimizer={"state": {}}, epoch=299)
    assert main(source, ours) == 0
    printed = capsys.readouterr().out
    assert "458 tensors, detr names" in printed
    assert "only weights are converted: optimizer, epoch" in printed
    converted = load_checkpoint_file(ours)
    assert torch.equal(
        converted["model"]["decoder.layers.0.cross_attn.in_proj_bias"],
        state["transformer.decoder.layers.0.multihead_attn.in_proj_bias"],
    )
    assert converted["class_names"] == coco_class_names(91)

    assert main(ours, back, "--to", "published") == 0
    content = load_checkpoint_file(back)
    assert set(content) == {"model"}
    assert content["model"].keys() == state.keys()
    assert all(torch.equal(content["model"][name], value) for name, value in state.items())


def test_input_is_a_file_or_a_name_of_weights(main, tmp_path, capsys):
    assert main("small_sap_detr", tmp_path / "named.safetensors") == 0
    assert load_checkpoint_file(tmp_path / "named.safetensors")["description"]
    assert main("small_sap", tmp_path / "none.safetensors") == 2
    assert "small_sap does not exist" in capsys.readouterr().err
    assert cli.main(["weights", "list", "small_sa"]) == 0
    listed = capsys.readouterr().out
    assert "sap_detr/sap_detr_small_shapes.py  " in listed
    assert "sam_detr/sam_detr_small_shapes.py, changed as the file says" in listed


def test_class_rows_91_to_80_and_back(main, tmp_path, capsys):
    source, ours, back = (tmp_path / name for name in ("detr.pth", "ours.pth", "back.pth"))
    head = write_published(source)["class_embed.bias"]
    assert main(source, ours, "--classes", "coco80") == 0
    converted = load_checkpoint_file(ours)
    used = [*COCO_CATEGORY_IDS, 91]
    assert torch.equal(converted["model"]["decoder.class_head.bias"], head[used])
    assert converted["class_names"] == coco_class_names(80)
    capsys.readouterr()
    assert main(ours, back, "--to", "published", "--classes", "coco91") == 0
    assert "can't be recovered" in capsys.readouterr().out
    restored = load_checkpoint_file(back)["model"]["class_embed.bias"]
    assert torch.equal(restored[used], head[used])
    assert (restored == UNUSED_CLASS_BIAS).sum() == 11


def test_own_class_names_are_kept_and_only_dropped_with_a_word(main, tmp_path, capsys):
    source, ours, again, back = (tmp_path / f"{name}.pth" for name in ("a", "b", "c", "d"))
    write_published(source, num_classes=2)
    assert main(source, ours) == 0
    content = load_checkpoint_file(ours)
    assert "class_names" not in content
    torch.save({**content, "class_names": ["x", "y"]}, ours)
    assert main(ours, again) == 0
    assert load_checkpoint_file(again)["class_names"] == ["x", "y"]
    capsys.readouterr()
    assert main(ours, back, "--to", "published") == 0
    assert "class_names" in capsys.readouterr().out
    assert main(ours, back, "--to", "published", "--classes", "coco91") == 2
    assert "not COCO's" in capsys.readouterr().err


def test_imagenet_backbone(main, tmp_path):
    source, output = tmp_path / "resnet50.pth", tmp_path / "ours.pth"
    torch.save({"conv1.weight": torch.ones(2), "fc.weight": torch.ones(2)}, source)
    assert main(source, output) == 0
    assert set(load_checkpoint_file(output)["model"]) == {"backbone.stem.conv1.weight"}


@pytest.mark.parametrize(
    ("extra_names", "num_classes", "options", "message"),
    [
        (["mask_head.lay1.weight"], 91, [], "panoptic"),
        (["extra.weight"], 91, [], "extra.weight"),
        ([], 20, ["--classes", "coco80"], "INPUT has 20"),
        ([], 91, ["--method", "detectron2_detr"], "INPUT has detr names"),
    ],
)
def test_what_can_not_be_converted(
    main, tmp_path, capsys, extra_names, num_classes, options, message
):
    source, output = tmp_path / "in.pth", tmp_path / "out.pth"
    write_published(source, num_classes, extra_names)
    assert main(source, output, *options) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not output.exists()


def test_bad_files_and_names_of_other_methods(main, tmp_path, capsys):
    source = tmp_path / "in.pth"
    torch.save({"model": {"decoder.unheard_of.weight": torch.ones(2)}}, source)
    for arguments, message in (
        ([tmp_path / "no.pth", tmp_path / "out.pth"], "does not exist"),
        ([source, tmp_path / "out.bin"], "must end in"),
        ([source, tmp_path / "no" / "out.pth"], "folder of OUTPUT"),
        ([source, source], "same file"),
        ([source, tmp_path / "out.pth", "--to", "published"], "no published method"),
        ([source, tmp_path / "out.pth", "--to", "published", "--method", "detr"], "unheard_of"),
        ([source, tmp_path / "out.pth", "--method", "yolo"], "sam_detr"),
    ):
        assert main(*arguments) == 2
        assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["in.pth"]


def test_help_explains(main, capsys):
    with pytest.raises(SystemExit) as stop:
        main("--help")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "coco91" in printed
    assert "never" in printed


def test_a_config_is_described_in_the_file_and_must_fit(main, tiny_config, tmp_path, capsys):
    tiny_config.model.num_classes = 80  # as class names settle it
    config = tmp_path / "config.yaml"
    LazyConfig.save(tiny_config, str(config))
    model = build_model(tiny_config)
    source, out, again = tmp_path / "a.pth", tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    names = [f"class {number}" for number in range(80)]
    torch.save({"model": model.state_dict(), "class_names": names}, source)
    assert main(source, out, "--config-file", config) == 0
    assert "described: the model of" in capsys.readouterr().out
    assert main(out, again) == 0
    for path in (out, again):
        description = ModelDescription.from_data(load_checkpoint_file(path)["description"])
        assert description == ModelDescription.from_config(tiny_config)

    assert main(source, tmp_path / "b.pth", "--config-file", config) == 2
    assert "--config-file is for a .safetensors file" in capsys.readouterr().err
    assert main(source, out, "--config-file", "detr/detr_small_shapes.py") == 2
    assert "Is it for another configuration?" in capsys.readouterr().err
