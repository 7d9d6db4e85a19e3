import logging

import pytest
from detectron2.config import LazyConfig

from sap_detr.checkpoint import CheckpointError
from sap_detr.config import load_config, prepare_data
from sap_detr.engine import DetectionTrainer, setup_run
from sap_detr.engine.run_config import CONFIG_FILE, changed_settings

SMALL = "detr/detr_small_shapes.py"


def test_a_saved_config_is_the_same(tmp_path):
    cfg = load_config(SMALL)
    LazyConfig.save(cfg, str(tmp_path / "saved.yaml"))
    assert changed_settings(load_config(str(tmp_path / "saved.yaml")), cfg) == []


def test_changes_are_found_behind_interpolations():
    before = load_config(SMALL)
    after = load_config(
        SMALL, ["dataset.name=other", "optimizer.lr=1e-3", "+train.note=x", "train.output_dir=y"]
    )
    assert changed_settings(before, after) == [
        ("dataloader.train.dataset.names", "shapes_train", "other_train"),
        ("dataloader.test.dataset.names", "shapes_val", "other_val"),
        ("dataloader.evaluator.dataset_name", "shapes_val", "other_val"),
        ("dataset.name", "shapes", "other"),
        ("optimizer.params.base_lr", 7e-4, 1e-3),
        ("optimizer.lr", 7e-4, 1e-3),
        ("train.note", None, "x"),
    ]


def run(overrides, resume=False):
    cfg = load_config(SMALL, overrides)
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture
def finished_run(tiny_overrides):
    overrides = [*tiny_overrides, "train.eval_period=0", "dataloader.test.dataset.names=[]"]
    run([*overrides, "train.max_iter=2"])
    return overrides


def test_a_resumed_run_says_what_it_ignores_and_what_it_applies(finished_run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trainer = run([*finished_run, "train.max_iter=4", "optimizer.lr=1"], resume=True)
    ignored = next(r.message for r in caplog.records if "are ignored" in r.message)
    assert "optimizer.lr: 0.0007 -> 1" in ignored
    applied = next(r.message for r in caplog.records if "are applied" in r.message)
    assert "train.max_iter: 2 -> 4" in applied
    # And so it is.
    assert trainer.max_iter == 4
    assert trainer.scheduler.base_lrs == [7e-4, 7e-4]
    assert load_config(str(tmp_path / "run" / CONFIG_FILE)).train.max_iter == 4


def test_a_refused_resume_leaves_the_config_as_it_was(finished_run, tmp_path):
    saved = (tmp_path / "run" / CONFIG_FILE).read_text()
    with pytest.raises(CheckpointError):
        run([*finished_run, "train.max_iter=4", "model.decoder.num_queries=9"], resume=True)
    assert (tmp_path / "run" / CONFIG_FILE).read_text() == saved
