"""What a person sees of a training: its pace, pictures, hyperparameters, and parts of their own."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from fault_campaign.comparison import first_difference
from PIL import Image
from recorders import LossRecorder, StepRecorder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from sap_detr.checkpoint import load_checkpoint_file
from sap_detr.config import load_config
from sap_detr.engine import DetectionTrainer, prepare_data, setup_run
from sap_detr.engine.hooks import Pace, ProgressBar
from sap_detr.engine.hyperparameters import plain_values
from sap_detr.engine.main import main
from sap_detr.visualization import training_pictures
from sap_detr.visualization.training_pictures import training_row

CONFIG = "detr/detr_small_shapes.py"
PICTURES = (
    "train.hooks=[{_target_:sap_detr.visualization.training_pictures.FirstBatches,num_images:5},"
    "{_target_:sap_detr.visualization.training_pictures.ValidationPictures,num_images:2}]"
)


def build(overrides):
    cfg = load_config(CONFIG, overrides)
    prepare_data(cfg)
    setup_run(cfg)
    return DetectionTrainer(cfg)


def train(overrides, resume=False):
    trainer = build(overrides)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_pace_is_told_once(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr("sap_detr.engine.hooks.time.perf_counter", lambda: now[0])
    hook = Pace(images=8, first=2, count=4)
    hook.trainer = SimpleNamespace(start_iter=10, max_iter=1000, iter=10)
    with caplog.at_level(logging.INFO):
        for iteration in range(10, 30):
            # The first two are slow.
            now[0] += 60 if iteration < 12 else 0.5
            hook.trainer.iter = iteration
            hook.after_step()
    # 1000 - 16 iterations of half a second.
    (message,) = caplog.messages
    assert message == (
        "pace: 16 images a second, 0.5 s an iteration, 0:08:12 to go without evaluations"
    )


def test_pictures_change_nothing_of_the_training(tiny_overrides, tmp_path, monkeypatch):
    seen = []
    sheet = training_pictures.detection_sheet
    monkeypatch.setattr(
        training_pictures,
        "detection_sheet",
        lambda rows, *args, **kwargs: seen.extend(rows) or sheet(rows, *args, **kwargs),
    )
    common = [*tiny_overrides, "train.max_iter=4", "train.eval_period=2", "train.ema.enabled=true"]
    weights = []
    for name, more in (("plain", []), ("pictures", [PICTURES])):
        train([*common, *more, f"train.output_dir={tmp_path / name}"])
        weights.append(load_checkpoint_file(tmp_path / name / "model_final.pth")["model"])
    assert first_difference(*weights) is None
    assert not (tmp_path / "plain/first_batches.png").exists()

    assert len(seen) == 5
    assert all(len(row.detections) for row in seen)
    assert {row.image.shape[0] for row in seen} <= {56, 64}
    with Image.open(tmp_path / "pictures/first_batches.png") as picture:
        assert picture.width > 320

    events = EventAccumulator(str(tmp_path / "pictures"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["validation/0", "validation/1"]
    # The second evaluation follows the last iteration, which Detectron2 counts as the fifth.
    assert [image.step for image in events.Images("validation/1")] == [1, 4]


@pytest.mark.parametrize("swapped", [False, True])
def test_images_are_shown_as_they_will_be_resized(swapped):
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[0] = 200
    instances = Instances((40, 60))
    instances.gt_boxes = Boxes(torch.tensor([[1.0, 2, 50, 30]]))
    instances.gt_classes = torch.tensor([1])
    inputs = {"image": image, "instances": instances, "file_name": "a/b.png"}
    row = training_row({**inputs, "resize_to": (40, 60)}, swapped)
    assert row.image.shape == (40, 60, 3)
    assert (row.image[:, :, 2 if swapped else 0] == 200).all()
    assert row.caption == "b.png: 60x40, 1 boxes"
    assert row.detections.gt_boxes.tensor.tolist() == [[1, 2, 50, 30]]


def test_hyperparameters_are_in_tensorboard(tiny_overrides, tmp_path):
    train([*tiny_overrides, "train.max_iter=1", "optimizer.lr=0.00123"])
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["optimizer.lr"].number_value == 0.00123
    assert values["dataloader.train.total_batch_size"].number_value == 4
    assert values["train.ema.enabled"].bool_value is False
    assert values["optimizer.betas"].string_value == "[0.9, 0.999]"
    assert "train.output_dir" not in values


def test_plain_values_leave_out_the_rest():
    cfg = load_config(CONFIG, ["train.class_names=null", "train.best_metric=bbox/AP50"])
    values = dict(plain_values(cfg))
    assert values["train.best_metric"] == "bbox/AP50"
    assert "train.class_names" not in values
    assert not any(isinstance(value, dict | list) for value in values.values())


def test_hooks_and_writers_of_the_config(tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(StepRecorder, "counts", [])
    monkeypatch.setattr(LossRecorder, "losses", {})
    named = [
        "train.hooks=[{_target_:recorders.StepRecorder,start:100}]",
        "train.writers=[{_target_:recorders.LossRecorder}]",
        "dataloader.test.dataset.names=[]",
    ]
    train([*tiny_overrides, *named, "train.max_iter=4"])
    assert StepRecorder.counts == [104]
    assert list(LossRecorder.losses) == [1, 3]
    # Their state is in checkpoints, as it was before the step of the checkpoint.
    train([*tiny_overrides, *named, "train.max_iter=6"], resume=True)
    assert StepRecorder.counts == [104, 103 + 2]
    saved = load_config(str(tmp_path / "run/config.yaml"))
    assert saved.train.hooks[0] == {"_target_": "recorders.StepRecorder", "start": 100}


@pytest.mark.parametrize(
    "change, words",
    [
        ("train.hooks=[{_target_:nothing.There}]", r"train.hooks[0]._target_=nothing.There"),
        ("train.hooks=[{start:1}]", "train.hooks[0]: a part with _target_"),
        ("train.hooks=[7]", "train.hooks[0]: a part with _target_"),
        ("train.writers=[{_target_:math.pi}]", "train.writers[0]._target_=math.pi is not a class"),
        ("train.writers=[{_target_:recorders.StepRecorder}]", "is a StepRecorder, not one of"),
        ("train.hooks=[{_target_:recorders.StepRecorder,stop:1}]", "train.hooks[0] can't be built"),
    ],
)
def test_parts_that_can_not_be_used_are_told(tiny_overrides, capfd, change, words):
    assert main(["--config-file", CONFIG, *tiny_overrides, change]) == 2
    assert words in capfd.readouterr().err


@pytest.mark.parametrize(
    "setting, terminal, shown",
    [("null", True, True), ("null", False, False), ("true", False, True), ("false", True, False)],
)
def test_a_bar_is_shown_on_a_terminal(tiny_overrides, monkeypatch, setting, terminal, shown):
    trainer = build([*tiny_overrides, "train.max_iter=1", f"train.progress_bar={setting}"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert any(isinstance(hook, ProgressBar) for hook in trainer.build_hooks()) == shown
