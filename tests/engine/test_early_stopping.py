"""A training ends where its evaluations say, whether it was interrupted or not."""

import json
import math
import re
import signal
from pathlib import Path

import jobs
import pytest
from fault_campaign.comparison import first_difference

from sap_detr.checkpoint import load_checkpoint_file
from sap_detr.config import load_config
from sap_detr.engine import DetectionTrainer, StepTrainer, prepare_data, setup_run
from sap_detr.engine.hooks import evaluations_since_best
from sap_detr.engine.main import main

CONFIG = "detr/detr_small_shapes.py"


@pytest.mark.parametrize(
    "values, min_delta, expected",
    [
        ([], 0, 0),
        ([5], 0, 0),
        ([5, 6, 7], 0, 0),
        ([5, 5], 0, 1),
        ([5, 4, 3, 6], 0, 0),
        ([5, 6, 4, 5, 6], 0, 3),
        ([5, 5.4, 5.9], 0.5, 0),
        ([5, 5.4, 5.5], 0.5, 2),
        ([-3, -2, -4], 0, 1),
    ],
)
def test_evaluations_since_the_best(values, min_delta, expected):
    assert evaluations_since_best(values, min_delta) == expected


@pytest.fixture
def overrides(tiny_overrides):
    """Evaluations after every second of up to 20 iterations, and checkpoints after every third."""
    return [
        *tiny_overrides,
        "train.max_iter=20",
        "train.eval_period=2",
        "train.checkpointer.period=3",
        "train.early_stopping.patience=2",
    ]


@pytest.fixture
def evaluate(monkeypatch):
    """Evaluations that give the values of a list, one after another, by their iteration."""

    def give(*values):
        monkeypatch.setattr(
            DetectionTrainer,
            "evaluate",
            lambda self: {"bbox": {"AP": values[(self.iter - 1) // 2]}},
        )

    return give


def train(overrides, resume=False):
    cfg = load_config(CONFIG, overrides)
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "values, changes, last",
    [
        ([1, 2, 2, 1], [], 7),
        ([3, 1, 2, 9], [], 5),
        # Without a number there is nothing to go by.
        ([3, math.nan, math.nan, 1, 1], [], 9),
        ([1, 2, 2.1, 2.2], ["train.early_stopping.min_delta=0.5"], 7),
        (range(1, 12), [], 19),
        ([9, *[1] * 10], ["train.early_stopping.patience=null"], 19),
    ],
)
def test_training_ends_where_the_table_says(overrides, evaluate, tmp_path, values, changes, last):
    evaluate(*values)
    train([*overrides, *changes])
    final = load_checkpoint_file(tmp_path / "run/model_final.pth")
    assert final["iteration"] == final["trainer"]["iteration"] == last
    records = map(json.loads, (tmp_path / "run/metrics.json").read_text().splitlines())
    assert max(record["iteration"] for record in records) == last + (last == 19)
    log = (tmp_path / "run/log.txt").read_text()
    assert ("training ends early: bbox/AP was" in log) == (last < 19)
    assert "Exception during training" not in log


def test_a_kill_and_resume_change_nothing(overrides, evaluate, tmp_path, monkeypatch):
    evaluate(1, 5, 2, 3)
    whole = [*overrides, f"train.output_dir={tmp_path}/whole"]
    train(whole)
    expected = load_checkpoint_file(tmp_path / "whole/model_final.pth")
    assert expected["iteration"] == 7
    take_step = StepTrainer.run_step
    for killed_at in (5, 6):
        parts = [*overrides, f"train.output_dir={tmp_path}/{killed_at}"]

        def end(self, killed_at=killed_at):
            if self.iter == killed_at:
                raise KeyboardInterrupt
            take_step(self)

        with monkeypatch.context() as patch:
            patch.setattr(StepTrainer, "run_step", end)
            with pytest.raises(KeyboardInterrupt):
                train(parts)
        train(parts, resume=True)
        final = load_checkpoint_file(tmp_path / f"{killed_at}/model_final.pth")
        assert first_difference(expected, final) is None
    # It has ended for good.
    train(parts, resume=True)
    assert first_difference(final, load_checkpoint_file(tmp_path / "6/model_final.pth")) is None


def test_a_kill_before_the_last_checkpoint_is_made_up_for(overrides, evaluate, tmp_path):
    """The evaluation that ends it was logged, and nothing after it was done."""
    evaluate(1, 5, 2, 3)
    out = tmp_path / "run"
    train(overrides)
    expected = load_checkpoint_file(out / "model_final.pth")
    for file in out.glob("model_final.*"):
        file.unlink()
    assert (out / "model_0000007.pth").is_file()
    (out / "last_checkpoint").write_text("model_0000007.pth")
    train(overrides, resume=True)
    assert first_difference(expected, load_checkpoint_file(out / "model_final.pth")) is None
    # With more patience it goes on.
    evaluate(1, 5, 2, 3, 1, 1)
    train([*overrides, "train.early_stopping.patience=4"], resume=True)
    assert load_checkpoint_file(out / "model_final.pth")["iteration"] == 11


@pytest.mark.slow
def test_two_processes_end_together_also_after_one_was_killed(overrides, tmp_path):
    def run(name, *arguments, **environment):
        """Trains in two processes; returns their exit statuses and the steps that each took."""
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        changes = ["train.checkpointer.period=2", f"train.output_dir={folder}"]
        ranks = jobs.run_ranks(
            folder,
            [*jobs.CONFIG, *arguments, *overrides, *changes],
            script=Path(jobs.__file__).parent / "scored_train.py",
            SCORES="3 1 2 9",
            **environment,
        )
        statuses = jobs.finish_all(ranks)
        return statuses, [
            list(map(int, re.findall(r"^step (\d+)$", rank.output, re.M))) for rank in ranks
        ]

    assert run("whole") == ([0, 0], [[0, 1, 2, 3, 4, 5]] * 2)
    statuses, steps = run("parts", FAULT="kill in training 1")
    assert statuses == [1, -signal.SIGKILL]
    assert steps[1] == [0, 1, 2]
    assert run("parts", "--resume") == ([0, 0], [[2, 3, 4, 5]] * 2)
    whole, parts = (
        load_checkpoint_file(tmp_path / name / "model_final.pth") for name in ("whole", "parts")
    )
    assert whole["iteration"] == 5
    assert first_difference(whole, parts) is None


@pytest.mark.parametrize(
    "change, words",
    [
        ("train.early_stopping.patience=0", "a whole number from 1 on or null is expected"),
        ("train.early_stopping.min_delta=-1", "a number from 0"),
        ("train.eval_period=0", "evaluates at the end only"),
        ("dataloader.test.dataset.names=[]", "no split to evaluate"),
    ],
)
def test_what_can_not_end_it_is_refused(overrides, capfd, change, words):
    assert main(["--config-file", CONFIG, *overrides, change]) == 2
    assert words in capfd.readouterr().err
