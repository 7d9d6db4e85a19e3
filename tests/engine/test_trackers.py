"""Experiment trackers that a config names, with their local stores."""

import json
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage

from sap_detr.config import load_config
from sap_detr.engine import DetectionTrainer, prepare_data, setup_run
from sap_detr.engine.trackers import TrackerWriter


class Kept(TrackerWriter):
    """Keeps everything, in the order of the calls."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def start(self):
        self.calls.append("start")
        return self

    def log(self, metrics, iteration):
        self.calls.append((iteration, metrics))

    def finish(self):
        self.calls.append("finish")


def test_everything_is_handed_over_once_by_its_iteration():
    writer = Kept()
    with EventStorage(0) as storage:
        writer.write()
        assert writer.calls == []
        storage.put_scalar("loss", 2.0)
        storage.iter = 3
        storage.put_scalar("bbox/AP", 5.0, smoothing_hint=False)
        writer.write()
        writer.write()
        storage.iter = 4
        storage.put_scalar("loss", 4.0)
        writer.write()
    writer.close()
    writer.close()
    # Losses are medians.
    expected = [(0, {"loss": 2.0}), (3, {"bbox/AP": 5.0}), (4, {"loss": 3.0})]
    assert writer.calls == ["start", *expected, "finish"]


def test_a_writer_that_logs_nothing_begins_no_run():
    writer = Kept()
    writer.close()
    assert writer.calls == []


def train(overrides, writer):
    cfg = load_config(
        "detr/detr_small_shapes.py", [*overrides, "train.max_iter=4", f"train.writers=[{writer}]"]
    )
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    text = Path(cfg.train.output_dir, "metrics.json").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_mlflow(tiny_overrides, tmp_path):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    address = f"sqlite:///{tmp_path}/mlflow.db"
    target = "sap_detr.engine.trackers.MlflowWriter"
    named = f"{{_target_:{target},tracking_uri:'{address}',experiment:shapes}}"
    records = train(tiny_overrides, named)
    client = MlflowClient(tracking_uri=address)
    (run,) = client.search_runs([client.get_experiment_by_name("shapes").experiment_id])
    assert run.info.status == "FINISHED"
    logged = client.get_metric_history(run.info.run_id, "total_loss")
    expected = {r["iteration"]: r["total_loss"] for r in records if "total_loss" in r}
    assert {m.step: m.value for m in logged} == pytest.approx(expected)
    assert "bbox/AP" in run.data.metrics


def test_wandb(tiny_overrides, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    target = "sap_detr.engine.trackers.WandbWriter"
    named = f"{{_target_:{target},project:shapes,mode:offline,dir:'{tmp_path}'}}"
    train(tiny_overrides, named)
    # Its process writes the rest as it ends.
    wandb.teardown()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"total_loss" in content
    assert b"bbox/AP" in content
