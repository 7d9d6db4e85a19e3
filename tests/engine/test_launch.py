"""What happens in a job of several processes when one of them fails."""

import json
import signal
import socket
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import jobs
import pytest
from detectron2.utils import comm

from sap_detr.checkpoint import load_checkpoint_file
from sap_detr.config import ConfigError
from sap_detr.engine import PREEMPTED_STATUS, ProcessOptions, Topology, launch
from sap_detr.engine.main import main
from sap_detr.engine.preemption import Preempted
from sap_detr.engine.process_group import interface_towards


@pytest.fixture
def arguments(tiny_overrides):
    """A run of six iterations, evaluated after each three."""
    return [*jobs.CONFIG, *tiny_overrides, "train.max_iter=6", "train.eval_period=3"]


def faulty_ranks(tmp_path, arguments, fault, **environment):
    environment = {"FAULT": fault, **environment}
    return jobs.run_ranks(tmp_path, arguments, script=jobs.FAULTY_TRAIN, **environment)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_error_of_one_rank_ends_all(where, rank, arguments, tmp_path):
    # Also in the last step, and in the evaluation after it.
    arguments = [*arguments, f"train.max_iter={3 if rank else 6}"]
    summary = tmp_path / "error.json"
    faulty = faulty_ranks(
        tmp_path, arguments, f"raise in {where} {rank}", TORCHELASTIC_ERROR_FILE=str(summary)
    )
    assert jobs.finish_all(faulty) == [1, 1]
    victim = faulty[1 - rank].output
    assert f"rank {rank} of 2 on" in faulty[rank].output
    assert "ValueError: the fault of this test" in faulty[rank].output
    assert "the fault of this test" not in victim
    assert f"rank {1 - rank} ends after rank {rank}: " in victim
    assert "of 2 on" not in victim
    assert "ValueError: the fault of this test" in summary.read_text()


def test_killed_rank_ends_the_others(arguments, tmp_path):
    killed, other = reversed(faulty_ranks(tmp_path, arguments, "kill in training 1"))
    assert jobs.finish_all([killed, other]) == [-signal.SIGKILL, 1]
    assert "The connection to another process was lost." in other.output


def test_processes_started_here_tell_the_first_error_first(arguments, tmp_path):
    command = jobs.Command(
        tmp_path / "log.txt",
        ["--num-gpus", "2", *arguments],
        jobs.FAULTY_TRAIN,
        {"FAULT": "raise in training 1"},
    )
    assert command.finish() == 1
    output = command.output
    assert output.index("rank 1 of 2 on") < output.index("rank 0 ends after rank 1")
    assert output.count("ValueError: the fault of this test") == 1
    # Logged by Detectron2 when the first error has been told.
    assert "Exception during training" not in output[: output.index("rank 1 of 2 on")]


def test_mistakes_found_by_the_processes_are_told_once(arguments, tmp_path):
    ranks = jobs.run_ranks(tmp_path, [*arguments, "train.init_checkpoint=missing.pth"])
    assert jobs.finish_all(ranks) == [2, 2]
    errors = [line for r in ranks for line in r.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "missing.pth" in errors[0]
    assert not any("Traceback" in rank.output for rank in ranks)
    assert not (tmp_path / "run").exists()


def test_a_restarted_job_resumes_by_itself(arguments, tmp_path):
    assert main([*arguments, "train.max_iter=2", "train.eval_period=0"]) == 0
    # As if a restart of the second machine had not been counted on the first.
    port = jobs.free_port()
    ranks = [
        jobs.Command(
            tmp_path / f"{rank}.txt",
            arguments,
            environment=jobs.torchrun_environment(
                rank, 2, port, TORCHELASTIC_RESTART_COUNT=str(rank)
            ),
        )
        for rank in (0, 1)
    ]
    assert jobs.finish_all(ranks) == [0, 0]
    assert "Resumed from" in ranks[0].output
    assert load_checkpoint_file(tmp_path / "run" / "model_final.pth")["trainer"]["iteration"] == 5


def test_contradictions_are_told_before_anything_starts(arguments, tmp_path, capfd, monkeypatch):
    for name, value in jobs.torchrun_environment(0, 4, 29500).items():
        monkeypatch.setenv(name, value)
    assert main(["--num-gpus", "2", *arguments]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: --num-gpus 2, but torchrun started 4 processes")
    assert not (tmp_path / "run").exists()


def raise_(stop, error):
    raise error


def test_one_process_alone():
    options = ProcessOptions()
    assert launch(raise_, Topology(), [ConfigError("a mistake")], options) == 2
    assert launch(raise_, Topology(), [Preempted()], options) == 85
    with pytest.raises(ValueError, match="broken"):
        launch(raise_, Topology(), [ValueError("broken")], options)


def started_by_detectron2(stop, folder):
    """Writes whether Detectron2's launch() is among the callers, and what it made."""
    files = [frame.filename for frame in traceback.extract_stack()]
    found = [
        file for file in files if Path(file).parts[-3:] == ("detectron2", "engine", "launch.py")
    ]
    note = [bool(found), comm.get_local_rank(), comm.get_local_size()]
    Path(folder, f"{comm.get_rank()}.json").write_text(json.dumps(note))


def test_processes_are_started_by_detectron2(tmp_path):
    two = Topology(processes_per_machine=2)
    assert launch(started_by_detectron2, two, [str(tmp_path)], ProcessOptions()) == 0
    notes = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert notes == [[True, 0, 2], [True, 1, 2]]


def test_detectron2_gets_our_timeout(monkeypatch):
    calls = []

    def start(work, processes, **options):
        calls.append((processes, options["num_machines"], options["timeout"]))

    monkeypatch.setattr(sys.modules[launch.__module__], "start_processes", start)
    options = ProcessOptions(timeout=timedelta(minutes=7))
    assert launch(raise_, Topology(processes_per_machine=4), [], options) == 0
    assert calls == [(4, 1, timedelta(minutes=7))]


@pytest.mark.parametrize(("fault", "status"), [("kill", 1), ("stop", PREEMPTED_STATUS)])
def test_sigterm_for_the_end_of_another_process_is_no_preemption(
    fault, status, arguments, tmp_path
):
    # Detectron2's launch() sends SIGTERM to rank 0 when rank 1 was killed. A user's SIGTERM to
    # rank 1 looks the same, and asks all to stop.
    command = jobs.Command(
        tmp_path / "log.txt",
        ["--num-gpus", "2", *arguments, "train.max_iter=2000", "train.eval_period=0"],
        jobs.FAULTY_TRAIN,
        {"FAULT": f"{fault} in training 1"},
    )
    assert command.finish() == status, command.output[-3000:]
    killed = fault == "kill"
    assert ("was ended by SIGKILL" in command.output) == killed
    assert ("rank 0 ends after rank 1" in command.output) == killed
    assert ("stopped by a signal" in command.output) != killed
    assert (tmp_path / "run" / "last_checkpoint").exists() != killed


def test_machine_that_does_not_come_is_named(tmp_path, arguments):
    url = f"tcp://127.0.0.1:{jobs.free_port()}"
    machines = ["--num-machines", 3, "--machine-rank", 0, "--dist-url", url]
    changes = ["train.process_group_timeout=0.05", "dataloader.train.total_batch_size=3"]
    alone = jobs.Command(tmp_path / "log.txt", [*machines, *arguments, *changes])
    assert alone.finish() == 1
    assert f"machine 0 of 3 on {socket.gethostname()} did not meet the others" in alone.output
    assert "for machines [1, 2]" in alone.output


def test_processes_that_do_not_meet(tmp_path, arguments):
    environment = jobs.torchrun_environment(1, 2, jobs.free_port())
    late = ["train.process_group_timeout=0.05"]
    alone = jobs.Command(tmp_path / "log.txt", [*arguments, *late], environment=environment)
    assert alone.finish() == 1
    assert "error: rank 1 of 2" in alone.output
    assert "did not meet the others at tcp://127.0.0.1:" in alone.output


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the interface's address")
def test_interface_towards_this_machine():
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no.such.host.invalid") is None
