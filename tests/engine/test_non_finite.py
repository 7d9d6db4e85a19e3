import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from sap_detr.config import ConfigError
from sap_detr.engine.non_finite import NonFinitePolicy, non_finite_weights, write_report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "ignore"}, "policy must be 'skip' or 'stop', got 'ignore'"),
        ({"max_skipped": -1}, "max_skipped must be 0 or more, got -1"),
        ({"max_consecutive": 1.5}, r"max_consecutive must be 0 or more, got 1.5"),
    ],
)
def test_policies_that_make_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        NonFinitePolicy(**arguments)


def test_weights_that_are_not_finite():
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    assert non_finite_weights(model) == []
    with torch.no_grad():
        model[0].bias.fill_(-torch.inf)
        model[1].running_var.fill_(torch.nan)
        # A mask, for example.
        model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert non_finite_weights(model) == ["0.bias", "1.running_var"]


def test_report_that_can_not_be_written_is_left_out(tmp_path, caplog):
    (tmp_path / "non_finite").touch()
    assert write_report(tmp_path, 3, 0, images=[]) is None
    assert "iteration_3_rank_0.json" in caplog.text


TWO_PROCESSES = """
import os, sys, logging
from pathlib import Path
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from sap_detr.engine import StepTrainer
from sap_detr.engine.non_finite import NonFinitePolicy

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, batch):
        # No gradient tells the other process about the second one.
        return {"loss_a": self.w.sum(), "loss_b": torch.tensor(batch[0]["x"])}

def batches(rank):
    for value in (1.0, 2.0, float("inf") if rank else 3.0, 4.0):
        yield [{"x": value, "image_id": 10 * rank + int(min(value, 9))}]

def work(rank):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{sys.argv[1]}/meet", rank=rank, world_size=2)
    comm._LOCAL_PROCESS_GROUP = torch.distributed.group.WORLD
    model = nn.parallel.DistributedDataParallel(Model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    trainer = StepTrainer(model, batches(rank), optimizer, metric_period=4,
                          report_dir=Path(sys.argv[1]))
    with EventStorage(0) as storage:
        for iteration in range(4):
            storage.iter = trainer.iter = iteration
            trainer.run_step()
            assert bool(trainer.skip) == (iteration == 2)
    assert trainer.skipped.total == 1
    torch.save(model.module.w.detach(), f"{sys.argv[1]}/{rank}.pth")

if __name__ == "__main__":
    for rank in (0, 1):
        if os.fork() == 0:
            try:
                work(rank)
            except BaseException as error:
                logging.exception("failed")
                os._exit(1)
            os._exit(0)
    sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)))
"""


def test_all_processes_skip_what_is_not_finite_in_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    assert first.isfinite().all()
    assert torch.equal(first, second)
    reports = [
        json.loads((tmp_path / "non_finite" / f"iteration_2_rank_{rank}.json").read_text())
        for rank in (0, 1)
    ]
    # Whose batch it was is to be seen.
    assert [report["losses"]["loss_b"] for report in reports] == [3.0, "inf"]
    assert [report["images"][0][0]["image_id"] for report in reports] == [3, 19]
    assert all(report["gradients"]["parameters_not_finite"] == 0 for report in reports)
