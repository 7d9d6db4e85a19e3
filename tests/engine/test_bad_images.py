"""Runs on data with damaged images."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from sap_detr.checkpoint import load_checkpoint_file
from sap_detr.config import load_config
from sap_detr.data import DatasetError
from sap_detr.engine import DetectionTrainer, prepare_data, setup_run


@pytest.fixture
def overrides(tiny_overrides, damage_image, tmp_path):
    """A set of its own, of which two images are damaged behind their headers."""
    changes = ["dataset.name=damaged_shapes", f"dataset.folder={tmp_path}/set"]
    prepare_data(load_config("detr/detr_small_shapes.py", [*tiny_overrides, *changes]))
    for name in ("000003.jpg", "000011.jpg"):
        damage_image(tmp_path / "set" / "train" / name)
    return [*tiny_overrides, *changes, "train.eval_period=0", "dataloader.test.dataset.names=[]"]


@pytest.fixture(autouse=True)
def _forget_the_set():
    yield
    for name in ("damaged_shapes_train", "damaged_shapes_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def train(overrides, out, max_iter=8, resume=False, share=0.1):
    changes = [
        f"train.output_dir={out}",
        f"train.max_iter={max_iter}",
        f"dataloader.train.max_bad_share={share}",
        # The same rate however long the run is.
        "lr_multiplier.scheduler.values=[1.0,1.0]",
        "lr_multiplier.warmup_length=0",
    ]
    cfg = load_config("detr/detr_small_shapes.py", [*overrides, *changes])
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return load_checkpoint_file(out / "model_final.pth")


def test_damaged_images_are_counted_and_resume_is_exact(overrides, tmp_path):
    whole = train(overrides, tmp_path / "whole")
    counts = whole["trainer"]["hooks"]["BadImageCount"]
    assert sorted(Path(name).name for name in counts["files"]) == ["000003.jpg", "000011.jpg"]
    assert counts["num_replaced"] == 4  # two epochs
    text = (tmp_path / "whole" / "metrics.json").read_text()
    assert json.loads(text.splitlines()[-1])["bad_images"] == 2
    assert "were replaced by others 4 times" in (tmp_path / "whole" / "log.txt").read_text()

    train(overrides, tmp_path / "parts", max_iter=3)
    resumed = train(overrides, tmp_path / "parts", resume=True)
    assert resumed["trainer"]["hooks"]["BadImageCount"] == counts
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name


def test_too_many_damaged_images_stop_the_run(overrides, tmp_path):
    with pytest.raises(DatasetError, match=r"(?s)2 of 18 .*000003\.jpg"):
        train(overrides, tmp_path / "run", share=0.01)
    assert not (tmp_path / "run" / "model_final.pth").exists()
