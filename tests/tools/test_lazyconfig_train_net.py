"""The training command, as a user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine.launch import _find_free_port

from sap_detr.checkpoint import load_checkpoint_file
from sap_detr.engine.main import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "tools" / "lazyconfig_train_net.py")]
CONFIG = ["--config-file", str(ROOT / "configs" / "detr" / "detr_small_shapes.py")]


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *CONFIG, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=240):
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output[-3000:]
    return output


def test_two_processes_survive_a_kill_and_evaluate_once(tiny_overrides, tmp_path):
    out = tmp_path / "run"
    arguments = [
        *["--num-gpus", "2", "--resume", "--dist-url", f"tcp://127.0.0.1:{_find_free_port()}"],
        *tiny_overrides,
        "train.max_iter=14",
        "train.checkpointer.period=4",
        "train.eval_period=0",
        # An odd number of images: the processes evaluate different numbers of them.
        "dataset.num_val=5",
    ]
    process = start(*arguments)
    deadline = time.monotonic() + 240
    while not (out / "model_0000003.pth").is_file():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "model_final.pth").is_file()

    output = finish(start(*arguments))
    assert "Resumed from" in output
    assert output.count("copypaste: AP,AP50") == 1
    assert load_checkpoint_file(out / "model_final.pth")["trainer"]["iteration"] == 13


TRAIN_AND_SAVE_EVERY_RANK = """
import sys
import torch
from detectron2.engine import launch
from detectron2.utils import comm
from sap_detr.config import load_config
from sap_detr.engine import DetectionTrainer, prepare_data, setup_run

def worker(folder, overrides):
    torch.set_num_threads(1)
    cfg = load_config("detr/detr_small_shapes.py", overrides)
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    if "--empty" in sys.argv:
        dicts = trainer._trainer.data_loader.dataset
        mapped = dicts.mapper
        def without_objects(record):
            return mapped({**record, "annotations": []})
        dicts.mapper = without_objects
    trainer.resume_or_load(resume=False)
    trainer.train()
    parameters = dict(trainer._trainer.model.module.named_parameters())
    assert all(p.grad is not None for p in parameters.values() if p.requires_grad)
    torch.save({k: p.detach() for k, p in parameters.items()}, f"{folder}/{comm.get_rank()}.pth")

if __name__ == "__main__":
    launch(worker, 2, dist_url="auto", args=(sys.argv[1], [a for a in sys.argv[2:] if "=" in a]))
"""


@pytest.mark.parametrize("kind", ["objects", "empty"])
def test_two_processes_end_with_identical_weights(kind, tiny_overrides, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TRAIN_AND_SAVE_EVERY_RANK)
    command = [sys.executable, str(script), str(tmp_path), *tiny_overrides, "train.max_iter=3"]
    command += ["--empty"] if kind == "empty" else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert len(first) > 20
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_evaluation_of_a_checkpoint(tiny_overrides, tmp_path, capfd):
    assert main([*CONFIG, *tiny_overrides, "train.max_iter=2", "train.eval_period=0"]) == 0
    capfd.readouterr()
    weights = tmp_path / "run" / "model_final.pth"
    evaluation = [*CONFIG, "--eval-only", *tiny_overrides, f"train.output_dir={tmp_path}/eval"]
    assert main([*evaluation, f"train.init_checkpoint={weights}"]) == 0
    assert "copypaste: AP,AP50" in capfd.readouterr().out
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert any("bbox/AP" in json.loads(line) for line in lines)


def run_and_get_error(arguments, capfd):
    assert main(arguments) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(
    ("flags", "change", "message"),
    [
        ([], "train.max_itr=3", "max_iter"),
        (["--eval-only"], "train.seed=1", "train.init_checkpoint"),
        ([], "train.init_checkpoint=missing.pth", "missing.pth"),
        ([], "model.num_classes=7", "7.*6 classes"),
        (["--num-gpus", "0"], "train.seed=1", "--num-gpus"),
        (["--num-gpus", "3"], "train.seed=1", "3 processes"),
        ([], "dataloader.train.total_batch_size=1000", "1000"),
        ([], "dataloader.train.dataset.names=unknown", "unknown"),
        ([], "train.device=cuda", "no GPU"),
        ([], "--resume", "--resume.*before the first"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_starts(
    flags, change, message, tiny_overrides, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = run_and_get_error([*CONFIG, *flags, *tiny_overrides, change], capfd)
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_a_config_is_needed(capfd):
    assert "--config-file" in run_and_get_error([], capfd)
    assert "nowhere.py" in run_and_get_error(["--config-file", "nowhere.py"], capfd)
