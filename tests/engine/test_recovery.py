"""Short runs that lose their disk, their checkpoints or their numbers."""

import errno
import json
import os

import pytest
import torch
from detectron2.utils.events import EventStorage
from fault_campaign.comparison import first_difference

from sap_detr.checkpoint import CheckpointError, load_checkpoint_file
from sap_detr.config import load_config
from sap_detr.engine import BestCheckpoint, DetectionTrainer, prepare_data, setup_run
from sap_detr.engine.main import main
from sap_detr.engine.metrics_file import METRICS_FILE


def build(overrides, *changes):
    cfg = load_config("detr/detr_small_shapes.py", [*overrides, *changes])
    prepare_data(cfg)
    setup_run(cfg)
    return DetectionTrainer(cfg)


def train(overrides, *changes, resume=False):
    trainer = build(overrides, *changes)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture
def quick(tiny_overrides):
    """Six iterations, a checkpoint every second one, no evaluation."""
    return [
        *tiny_overrides,
        "train.max_iter=6",
        "train.checkpointer.period=2",
        "train.eval_period=0",
        "dataloader.test.dataset.names=[]",
        "train.ema.enabled=true",
    ]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_run_goes_on_from_an_older_checkpoint_if_the_newest_is_damaged(quick, tmp_path):
    out = tmp_path / "run"
    train(quick, "train.checkpointer.max_to_keep=2")
    assert {path.stem for path in out.glob("model_0*")} == {"model_0000003", "model_0000005"}
    final = load_checkpoint_file(out / "model_final.pth")
    for name in ("model_final.pth", "model_0000005.pth"):
        content = bytearray((out / name).read_bytes())
        content[len(content) // 3] ^= 16
        (out / name).write_bytes(content)
    with (out / "metrics.json").open("a") as file:
        file.write('{"iteration": 5, "total_l')

    trainer = train(quick, resume=True)
    assert trainer.start_iter == 4
    log = (out / "log.txt").read_text()
    assert "Skipping a checkpoint" in log
    assert log.count("model_final.pth") > 2
    assert first_difference(final, load_checkpoint_file(out / "model_final.pth")) is None
    iterations = [line["iteration"] for line in lines(out / "metrics.json") if "lr" in line]
    assert iterations == sorted(set(iterations))
    assert iterations[-1] == 5


def test_last_checkpoint_that_can_not_be_written_is_an_error_at_the_end(
    quick, tmp_path, monkeypatch, capfd
):
    out = tmp_path / "run"
    replace = os.replace

    def fail(source, target):
        if out.joinpath("model_0000001.pth").exists() and str(target).endswith(".pth"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("sap_detr.checkpoint.safe_load.os.replace", fail)
        assert main(["--config-file", "detr/detr_small_shapes.py", *quick]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "model_final.pth could not be written: No space left" in error
    assert "--resume" in error
    assert {path.name for path in out.glob("*model*.pth")} == {"model_0000001.pth"}
    # All six iterations were trained, and the next try has room.
    assert any(line["iteration"] == 5 for line in lines(out / "metrics.json"))
    assert main(["--config-file", "detr/detr_small_shapes.py", "--resume", *quick]) == 0
    assert load_checkpoint_file(out / "model_final.pth")["trainer"]["iteration"] == 5


def test_folder_is_locked_while_a_run_trains(quick, tmp_path, monkeypatch):
    trainer = build(quick)
    seen = []
    monkeypatch.setattr(
        "sap_detr.engine.trainer.lock_run_folder", lambda folder: seen.append(("lock", folder))
    )
    monkeypatch.setattr(
        "sap_detr.engine.trainer.release_run_folder", lambda folder: seen.append(("free", folder))
    )
    monkeypatch.setattr(trainer, "run_step", lambda: seen.append("step"))
    trainer.resume_or_load(resume=False)
    out = str(tmp_path / "run")
    assert seen == [("lock", out)]
    trainer.max_iter = 1
    monkeypatch.setattr(trainer, "after_step", lambda: None)
    trainer.train()
    assert seen[1:] == [("lock", out), "step", ("free", out)]


def test_a_step_that_is_not_finite_leaves_weights_and_average(quick, tmp_path):
    trainer = build(quick, "train.checkpointer.period=1", "train.max_iter=4")
    run_step = trainer._trainer.run_step

    def with_bad_image():
        trainer._trainer._batches = trainer._trainer._batches or iter(trainer._trainer.data_loader)
        batches = trainer._trainer._batches
        if trainer.iter == 2:
            batch = next(batches)
            batch[0]["image"] = torch.full_like(batch[0]["image"].float(), torch.nan)
            trainer._trainer._batches = iter([batch])
        run_step()
        trainer._trainer._batches = batches

    trainer._trainer.run_step = with_bad_image
    trainer.resume_or_load(resume=False)
    trainer.train()
    first, second, third = (
        load_checkpoint_file(tmp_path / "run" / f"model_000000{i}.pth") for i in (1, 2, 3)
    )
    for part in ("model", "raw_model"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), f"{part}: {name}"
    assert any(not torch.equal(v, third["model"][n]) for n, v in first["model"].items())
    counted = {
        line["iteration"]: line["skipped_steps"]
        for line in lines(tmp_path / "run" / "metrics.json")
        if "skipped_steps" in line
    }
    assert counted[3] == 1


def test_run_that_was_killed_just_before_its_end_is_brought_there(quick, tmp_path):
    out = tmp_path / "run"
    train(quick)
    final = load_checkpoint_file(out / "model_final.pth")
    assert (out / "model_0000005.pth").exists()
    (out / "model_final.pth").unlink()
    (out / "last_checkpoint").write_text("model_0000005.pth")
    trainer = train(quick, resume=True)
    assert trainer.start_iter == 6
    again = load_checkpoint_file(out / "model_final.pth")
    assert first_difference(final, again) is None
    # A run that is complete stays as it is.
    written = (out / "model_final.pth").stat().st_mtime_ns
    train(quick, resume=True)
    assert (out / "model_final.pth").stat().st_mtime_ns == written


def test_evaluation_that_a_kill_cut_short_is_repeated(tiny_overrides, tmp_path, monkeypatch):
    changes = ["train.checkpointer.period=2", "train.max_iter=6", "train.eval_period=2"]
    aps = {1: 7.0, 3: 5.0}

    def evaluate(trainer):
        evaluated.append(trainer.iter)
        if trainer.iter == 3 and killed:
            raise KeyboardInterrupt
        return {"bbox": {"AP": aps.get(trainer.iter, 6.0)}}

    monkeypatch.setattr(DetectionTrainer, "evaluate", evaluate)
    out = tmp_path / "run"
    for killed in (True, False):
        evaluated = []
        trainer = build(tiny_overrides, *changes)
        trainer.resume_or_load(resume=not killed)
        if killed:
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
            assert evaluated == [1, 3]
        else:
            trainer.train()
            # After training Detectron2 counts one iteration more.
            assert evaluated == [3, 6]
    logged = {
        line["iteration"]: line["bbox/AP"]
        for line in lines(out / METRICS_FILE)
        if "bbox/AP" in line
    }
    assert logged == {1: 7.0, 3: 5.0, 6: 6.0}
    best = load_checkpoint_file(out / "model_best.pth")
    assert best["trainer"]["iteration"] == 1

    # A repeated evaluation may set the record, with the weights of its own iteration.
    for name in ("model_0000005.pth", "model_final.pth"):
        (out / name).unlink()
    (out / METRICS_FILE).unlink()
    aps[3] = 8.0
    evaluated = []
    trainer = build(tiny_overrides, *changes)
    trainer.resume_or_load(resume=True)
    trainer.train()
    assert evaluated == [3, 6]
    best, periodic = (
        load_checkpoint_file(out / f"{name}.pth") for name in ("model_best", "model_0000003")
    )
    assert best["trainer"]["iteration"] == 3
    assert first_difference(best["model"], periodic["model"]) is None

    # Also the one after the last iteration.
    aps[6] = 9.0
    train(tiny_overrides, *changes, "train.checkpointer.period=100")
    best = load_checkpoint_file(out / "model_best.pth")
    assert best["trainer"]["iteration"] == 5


def test_record_of_the_best_checkpoint_outlives_a_kill(tiny_overrides, tmp_path):
    common = [*tiny_overrides, "train.checkpointer.period=2", "train.max_iter=6"]
    out = tmp_path / "run"
    trainer = train(common, "train.eval_period=2")
    hook = next(h for h in trainer._hooks if isinstance(h, BestCheckpoint))
    assert hook.best is not None
    stored = load_checkpoint_file(out / "model_0000001.pth")
    # It was written before the evaluation that set the record.
    assert "BestCheckpoint" not in stored["trainer"]["hooks"]
    for name in ("model_0000003.pth", "model_0000005.pth", "model_final.pth"):
        (out / name).unlink()
    resumed = build(common, "train.eval_period=0")
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    other = next(h for h in resumed._hooks if isinstance(h, BestCheckpoint))
    assert other.best is None
    with EventStorage(2) as resumed.storage:
        other.before_train()
    assert other.best == hook.best


def test_garbage_instead_of_checkpoints_does_not_start_a_new_run(quick, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "model_0000001.pth").write_bytes(b"\0" * 1000)
    trainer = build(quick)
    with pytest.raises(CheckpointError, match="none of them is whole"):
        trainer.resume_or_load(resume=True)
