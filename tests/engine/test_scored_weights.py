"""What a training's evaluation scored is what everything hands out that reads its checkpoints."""

import logging
import shutil

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from fault_campaign.comparison import first_difference

from sap_detr import model_zoo
from sap_detr.checkpoint import SafeCheckpointer, load_checkpoint_file
from sap_detr.config import load_config, prepare_data
from sap_detr.engine import DetectionTrainer, build_model, setup_run
from sap_detr.engine.main import evaluate, main

CONFIG = "detr/detr_small_shapes.py"
NAME = "decoder.query_embed.weight"


@pytest.fixture
def changes(tiny_overrides):
    return [*tiny_overrides, "train.ema.enabled=true", "train.ema.decay=0.9", "train.max_iter=3"]


@pytest.fixture
def scored(changes, monkeypatch):
    """Trains; returns a tensor of the model that was evaluated."""
    seen = []
    test = DetectionTrainer.test

    def recorded(cfg, model):
        seen.append(model.get_parameter(NAME).detach().clone())
        return test(cfg, model)

    monkeypatch.setattr(DetectionTrainer, "test", staticmethod(recorded))
    trainer = trained(changes)
    assert not torch.equal(seen[-1], trainer.model.get_parameter(NAME))
    return seen


def trained(changes, resume=False):
    cfg = load_config(CONFIG, changes)
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def config(changes, *more):
    cfg = load_config(CONFIG, [*changes, *more])
    prepare_data(cfg)
    return cfg


def test_by_every_entrance(scored, changes, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    path = str(tmp_path / "run" / "model_final.pth")
    both = load_checkpoint_file(path)
    expected = {"scored": scored[0], "raw": both["raw_model"][NAME]}
    cfg = config(changes, f"train.init_checkpoint={path}", "train.ema.enabled=false")

    best = load_checkpoint_file(tmp_path / "run" / "model_best.pth")
    assert torch.equal(best["model"][NAME], expected["scored"])

    model = build_model(cfg)
    DetectionCheckpointer(model).load(path)
    assert torch.equal(model.get_parameter(NAME), expected["scored"])

    monkeypatch.setattr(model_zoo, "get_config", lambda *_: cfg.copy())
    for weights, value in expected.items():
        caplog.clear()
        cfg.train.weights = weights
        evaluate(cfg)
        assert torch.equal(scored.pop(), value)

        zoo = model_zoo.get(CONFIG, trained=path, weights=weights)
        assert torch.equal(zoo.get_parameter(NAME), value)

        model = build_model(cfg)
        SafeCheckpointer(model, class_names=cfg.train.class_names).load(path, weights=weights)
        assert torch.equal(model.get_parameter(NAME), value)

        trainer = DetectionTrainer(cfg)
        trainer.resume_or_load(resume=False)
        assert torch.equal(trainer.model.get_parameter(NAME), value)
        said = [r.message for r in caplog.records if r.message.startswith("Weights from")]
        words = {"scored": "moving average of its weights", "raw": "its raw weights"}[weights]
        assert [words in text for text in said] == [True] * 4


def test_a_run_of_an_earlier_version_goes_on(scored, changes, tmp_path):
    """It had the raw weights under `model`, and the average under `ema`."""
    shutil.copytree(tmp_path / "run", tmp_path / "earlier")
    path = tmp_path / "earlier" / "model_final.pth"
    both = load_checkpoint_file(path)
    average = {**both["model"], "num_updates": both["ema"]["num_updates"]}
    torch.save({**both, "model": both.pop("raw_model"), "ema": average}, path)
    finals = []
    for run in ("run", "earlier"):
        more = ["train.max_iter=5", f"train.output_dir={tmp_path / run}"]
        assert trained([*changes, *more], resume=True).start_iter == 3
        finals.append(load_checkpoint_file(tmp_path / run / "model_final.pth"))
    assert first_difference(*finals) is None


def test_another_word_is_refused_before_training(changes, tmp_path, capfd):
    arguments = ["--config-file", CONFIG, *changes, "train.weights=ema"]
    assert main(arguments) == 2
    assert "error: train.weights=ema: one of scored, raw" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
