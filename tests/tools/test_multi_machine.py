"""The training command on several machines, which are stood in for by processes of this one."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import jobs
import pytest
import torch

from sap_detr.checkpoint import load_checkpoint_file
from sap_detr.engine import PREEMPTED_STATUS

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture
def arguments(tiny_overrides):
    changes = ["train.max_iter=4", "train.eval_period=0", "dataset.image_size=[32,32]"]
    sizes = [
        "train.mapper.augmentations.short_sides=[32]",
        "test.mapper.augmentations.short_side=32",
    ]
    # Images of another size are another set.
    overrides = [o + "_32" if o.startswith("dataset.folder") else o for o in tiny_overrides]
    return [*jobs.CONFIG, *overrides, *changes, *(f"dataloader.{size}" for size in sizes)]


def of_machine(rank, url):
    return ["--num-machines", 2, "--machine-rank", rank, "--dist-url", url]


def assert_trained(first, second, folder, iteration=3):
    assert "2 processes x 1 accumulated x 2" in first.output
    assert first.output.count("copypaste: AP,AP50") == 1
    assert "copypaste" not in second.output
    final = load_checkpoint_file(folder / "run" / "model_final.pth")
    assert final["trainer"]["iteration"] == iteration
    return final


def test_two_commands_on_the_loopback_address(arguments, tmp_path):
    url = f"tcp://127.0.0.1:{jobs.free_port()}"
    machines = [
        jobs.Command(tmp_path / f"{rank}.txt", [*of_machine(rank, url), *arguments])
        for rank in (0, 1)
    ]
    assert jobs.finish_all(machines) == [0, 0]
    assert_trained(*machines, tmp_path)


@pytest.mark.slow
def test_two_pods_whose_environment_counts_machines(arguments, tmp_path):
    port = str(jobs.free_port())
    pods = [
        jobs.Command(
            tmp_path / f"{rank}.txt",
            ["--num-gpus", 1, *arguments],
            environment={
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in (0, 1)
    ]
    assert jobs.finish_all(pods) == [0, 0]
    assert_trained(*pods, tmp_path)


def slurm_job_id():
    """One whose port is free."""
    for number in range(os.getpid(), os.getpid() + 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", 16384 + number % 16384))
            except OSError:
                continue
            return number
    raise AssertionError("no free port")


def test_two_tasks_of_slurm(arguments, tmp_path):
    job = {
        "SLURM_JOB_ID": str(slurm_job_id()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_LOCALID": "0",
        "SLURM_RESTART_COUNT": "1",
    }
    tasks = [
        jobs.Command(
            tmp_path / f"{rank}.txt",
            arguments,
            environment={**job, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)},
        )
        for rank in (0, 1)
    ]
    assert jobs.finish_all(tasks) == [0, 0]
    assert_trained(*tasks, tmp_path)
    assert "restart 1: going on from the newest checkpoint" in tasks[0].output


class Machine:
    """A network namespace with an address of its own, joined to another one by a cable."""

    def __init__(self, name, address):
        self.name = name
        self.address = address
        self.prefix = ["ip", "netns", "exec", name]


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def two_machines():
    """Skips the test where network namespaces can't be made."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces: there is no command `ip`")
    tag = f"sap{os.getpid() % 10000}"
    first, second = Machine(f"{tag}a", "10.213.7.1"), Machine(f"{tag}b", "10.213.7.2")
    try:
        try:
            for machine in (first, second):
                ip("netns", "add", machine.name)
            ip("link", "add", first.name, "netns", first.name, "type", "veth",
               "peer", "name", second.name, "netns", second.name)  # fmt: skip
            for machine in (first, second):
                here = ["-n", machine.name]
                ip(*here, "address", "add", f"{machine.address}/24", "dev", machine.name)
                for device in ("lo", machine.name):
                    ip(*here, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces: {error.stderr.strip()}")
        yield first, second
    finally:
        for machine in (first, second):
            subprocess.run(["ip", "netns", "delete", machine.name], capture_output=True)


class Shell:
    """A command of its own, with the interface of ``jobs.Command``."""

    def __init__(self, log, command, **environment):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*map(str, command)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                start_new_session=True,
            )

    @property
    def output(self):
        return self.log.read_text()

    @property
    def running(self):
        return self.process.poll() is None

    def finish(self):
        return self.process.wait(timeout=3 * jobs.PATIENCE)

    def kill(self, number=signal.SIGKILL):
        os.killpg(self.process.pid, number)
        self.process.wait()


@pytest.mark.slow
def test_two_network_namespaces(arguments, tmp_path):
    with two_machines() as machines:
        url = f"tcp://{machines[0].address}:29500"
        commands = [
            Shell(
                tmp_path / f"{rank}.txt",
                [*machine.prefix, sys.executable, jobs.TRAIN, *of_machine(rank, url), *arguments],
            )
            for rank, machine in enumerate(machines)
        ]
        assert jobs.finish_all(commands) == [0, 0], commands[1].output[-3000:]
    assert_trained(*commands, tmp_path)


def start_torchrun(tmp_path, arguments, *options):
    port = f"--master-port={jobs.free_port()}"
    command = [*TORCHRUN, "--nproc-per-node=2", port, *options, jobs.TRAIN, *arguments]
    return Shell(tmp_path / f"torchrun{len(list(tmp_path.iterdir()))}.txt", command)


def wait_for_file(path, command):
    deadline = time.monotonic() + 3 * jobs.PATIENCE
    while not path.exists():
        assert command.running, command.output[-3000:]
        assert time.monotonic() < deadline, command.output[-3000:]
        time.sleep(0.01)


def same_weights(first, second):
    assert first["model"].keys() == second["model"].keys()
    assert first["raw_model"].keys() == second["raw_model"].keys()
    return all(
        torch.equal(value, second[part][name])
        for part in ("model", "raw_model")
        for name, value in first[part].items()
    )


@pytest.mark.slow
def test_torchrun_restarts_after_a_rank_was_killed(arguments, tmp_path):
    changes = ["train.max_iter=60", "train.checkpointer.period=5", "train.ema.enabled=true"]
    changes.append("dataloader.test.dataset.names=[]")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uninterrupted = start_torchrun(tmp_path, [*arguments, *changes, f"train.output_dir={whole}"])
    assert uninterrupted.finish() == 0, uninterrupted.output[-3000:]

    command = start_torchrun(
        tmp_path, [*arguments, *changes, f"train.output_dir={parts}"], "--max-restarts=1"
    )
    wait_for_file(parts / "model_0000009.pth", command)
    victim = int(re.findall(r"process (\d+)", (parts / "log.txt.rank1").read_text())[0])
    os.kill(victim, signal.SIGKILL)
    assert command.finish() == 0, command.output[-3000:]
    assert "restart 1: going on from the newest checkpoint" in command.output
    assert "Resumed from" in command.output
    final = [load_checkpoint_file(folder / "model_final.pth") for folder in (whole, parts)]
    assert final[1]["trainer"]["iteration"] == 59
    assert same_weights(*final)


@pytest.mark.slow
def test_torchrun_passes_signals_on(arguments, tmp_path):
    changes = ["train.max_iter=2000", "dataloader.train.num_workers=1"]
    command = start_torchrun(tmp_path, [*arguments, *changes], "--max-restarts=1")
    wait_for_file(tmp_path / "run" / "model_0000003.pth", command)
    os.kill(command.process.pid, signal.SIGTERM)
    assert command.finish() != 0
    assert f"exit status {PREEMPTED_STATUS}" in command.output
    last = (tmp_path / "run" / "last_checkpoint").read_text()
    checkpoint = load_checkpoint_file(tmp_path / "run" / last)
    assert checkpoint["trainer"]["iteration"] == int(last[6:13])


SRUN = """#!/bin/bash
echo "$@" > srun.txt
trap 'exit {status}' USR1
touch started
while ! [ -e finish ]; do sleep 0.05; done
"""


@pytest.mark.parametrize("status", [PREEMPTED_STATUS, 1, None])
def test_the_template_for_slurm_queues_the_job_again(status, tmp_path):
    commands = {
        "srun": SRUN.format(status=status),
        "scontrol": '#!/bin/bash\necho "$@" > scontrol.txt',
    }
    for name, script in commands.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    template = jobs.ROOT / "tools" / "slurm" / "train.sbatch"
    job = subprocess.Popen(
        ["bash", template, "a config.py", "train.seed=3"], cwd=tmp_path, env=environment
    )
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    if status is None:
        (tmp_path / "finish").touch()
    else:
        job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=jobs.PATIENCE) == (status or 0)
    arguments = (tmp_path / "srun.txt").read_text()
    assert "--config-file a config.py --resume train.seed=3" in arguments
    requeued = tmp_path / "scontrol.txt"
    assert requeued.exists() == (status == PREEMPTED_STATUS)
    if requeued.exists():
        assert requeued.read_text() == "requeue 7\n"
