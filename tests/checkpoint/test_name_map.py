from __future__ import annotations

import pytest
import torch

from sap_detr.checkpoint import NAME_MAPS, CheckpointError, NameMap, register_name_map
from sap_detr.checkpoint.name_map import detect_format
from sap_detr.modeling import DETR

TOY = NameMap(
    method="toy",
    pairs=(
        ("class_embed.0.layers.{j}.{p}", "decoder.class_heads.0.layers.{j}.{p}"),
        ("class_embed.1.layers.{j}.{p}", "decoder.class_heads.1.layers.{j}.{p}"),
        ("bbox_embed.{i}.layers.{j}.{p}", "decoder.box_heads.{i}.layers.{j}.{p}"),
    ),
    aliases=(
        *(
            (f"class_embed.{k}.layers.{{j}}.{{p}}", "class_embed.1.layers.{j}.{p}")
            for k in range(2, 6)
        ),
        ("transformer.decoder.bbox_embed.{i}.layers.{j}.{p}", "bbox_embed.{i}.layers.{j}.{p}"),
    ),
    class_rows=("decoder.class_heads.{i}.layers.2.{p}",),
)


def test_every_published_detr_name_there_and_back(published_detr):
    state = published_detr()
    ours = DETR.to_ours(state)
    assert len(ours) == len(state) == 458
    back = DETR.to_published(ours)
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("backbone.0.body.conv1.weight", "backbone.stem.conv1.weight"),
        ("backbone.0.body.bn1.running_var", "backbone.stem.conv1.norm.running_var"),
        ("backbone.0.body.layer3.22.conv2.weight", "backbone.res4.22.conv2.weight"),
        ("backbone.0.body.layer4.0.bn3.bias", "backbone.res5.0.conv3.norm.bias"),
        ("backbone.0.body.layer1.0.downsample.0.weight", "backbone.res2.0.shortcut.weight"),
        (
            "backbone.0.body.layer1.0.downsample.1.running_mean",
            "backbone.res2.0.shortcut.norm.running_mean",
        ),
        ("input_proj.weight", "neck.projections.0.weight"),
        (
            "transformer.encoder.layers.5.self_attn.in_proj_bias",
            "encoder.layers.5.self_attn.in_proj_bias",
        ),
        ("transformer.encoder.layers.0.linear2.bias", "encoder.layers.0.ffn.linear2.bias"),
        (
            "transformer.decoder.layers.3.multihead_attn.out_proj.weight",
            "decoder.layers.3.cross_attn.out_proj.weight",
        ),
        ("transformer.decoder.layers.5.norm2.weight", "decoder.layers.5.norm2.weight"),
        ("transformer.decoder.norm.bias", "decoder.norm.bias"),
        ("query_embed.weight", "decoder.query_embed.weight"),
        ("class_embed.bias", "decoder.class_head.bias"),
        ("bbox_embed.layers.2.weight", "decoder.box_head.layers.2.weight"),
    ],
)
def test_detr_names(published, ours):
    assert DETR.ours(published) == ours
    assert DETR.published(ours) == published


def test_unknown_names_are_all_listed(published_detr):
    state = published_detr() | {"foo.weight": torch.ones(1), "query_embed.bias": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"foo\.weight, query_embed\.bias"):
        DETR.to_ours(state)
    with pytest.raises(CheckpointError, match=r"decoder\.other"):
        DETR.to_published({"decoder.other": torch.ones(1)})


def test_batch_counters_are_dropped(published_detr):
    extra = {"backbone.0.body.bn1.num_batches_tracked": torch.tensor(3)}
    assert DETR.to_ours(published_detr() | extra).keys() == DETR.to_ours(published_detr()).keys()


def test_doubled_names_are_merged_and_written_again():
    ours = {
        "decoder.class_heads.0.layers.2.weight": torch.ones(3, 2),
        "decoder.class_heads.1.layers.2.weight": torch.zeros(3, 2),
        "decoder.box_heads.4.layers.0.bias": torch.ones(2),
    }
    published = TOY.to_published(ours)
    assert len(published) == 1 + 5 + 2
    assert published["class_embed.5.layers.2.weight"] is published["class_embed.1.layers.2.weight"]
    assert published["class_embed.1.layers.2.weight"].sum() == 0
    assert "transformer.decoder.bbox_embed.4.layers.0.bias" in published
    assert TOY.to_ours(published) == ours
    assert TOY.class_row_names(ours) == [name for name in ours if "class" in name]

    without_original = dict(published)
    del without_original["class_embed.1.layers.2.weight"]
    assert TOY.to_ours(without_original).keys() == ours.keys()

    published["class_embed.3.layers.2.weight"] = torch.ones(3, 2)
    with pytest.raises(
        CheckpointError, match=r"class_embed\.3\.layers\.2\.weight and class_embed\.1"
    ):
        TOY.to_ours(published)


def test_templates_need_the_same_fields():
    with pytest.raises(ValueError, match="same fields"):
        NameMap(method="wrong", pairs=(("a.{i}.{p}", "b.{p}"),))


def test_registered_table_is_recognised(monkeypatch):
    monkeypatch.setattr("sap_detr.checkpoint.name_map.NAME_MAPS", dict(NAME_MAPS))
    novel = NameMap(method="novel", pairs=(("novel_head.{p}", "decoder.novel_head.{p}"),))
    state = {"novel_head.bias": torch.ones(2)}
    with pytest.raises(CheckpointError, match="no known checkpoint"):
        detect_format(state)
    register_name_map(novel)
    register_name_map(novel)
    assert detect_format(state) == "novel"
    with pytest.raises(ValueError, match="'novel' exists"):
        register_name_map(NameMap(method="novel", pairs=()))


def imagenet_torchvision(published):
    prefix = "backbone.0.body."
    state = {n.removeprefix(prefix): v for n, v in published.items() if n.startswith(prefix)}
    return state | {
        "fc.weight": torch.ones(5, 2),
        "fc.bias": torch.ones(5),
        "layer1.0.bn1.num_batches_tracked": torch.tensor(0),
    }


def imagenet_detectron2(published):
    ours = NAME_MAPS["torchvision_resnet"].to_ours(imagenet_torchvision(published))
    state = {name.removeprefix("backbone."): value for name, value in ours.items()}
    return state | {"stem.fc.weight": torch.ones(5, 2), "stem.fc.bias": torch.ones(5)}


def wrapper(published):
    """Names of the published repository's own Detectron2 wrapper."""
    state = {}
    for name, value in published.items():
        ours = DETR.ours(name)
        if ours.startswith("backbone."):
            name = "backbone.0." + ours
        state["detr." + name] = value
    return state | {"criterion.empty_weight": torch.ones(81)}


def test_formats_of_the_same_network_agree(published_detr):
    published = published_detr()
    ours = DETR.to_ours(published)
    backbone = {name: value for name, value in ours.items() if name.startswith("backbone.")}
    for state, form, expected in (
        (published, "detr", ours),
        (wrapper(published), "detectron2_detr", ours),
        (imagenet_torchvision(published), "torchvision_resnet", backbone),
        (imagenet_detectron2(published), "detectron2_resnet", backbone),
    ):
        assert detect_format(state) == form
        assert NAME_MAPS[form].to_ours(state) == expected
    assert detect_format(ours) == detect_format(backbone) == "ours"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"bbox_attention.q_linear.weight"}, "panoptic"),
        ({"detr.class_embed.weight", "mask_head.lay1.weight"}, "panoptic"),
        ({"conv1_w", "res2_0_branch2a_w"}, "Caffe2"),
        ({"roi_heads.box.weight"}, "no known checkpoint"),
        (
            {"query_embed.weight", "transformer.encoder.layers.0.extra.weight"},
            "resemble detr.*extra",
        ),
    ],
)
def test_unusable_names_are_explained(extra, message):
    with pytest.raises(CheckpointError, match=message):
        detect_format(dict.fromkeys(extra))
