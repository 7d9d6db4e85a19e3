"""Runs training commands in processes of their own, with libraries imported once for all of them.

A server process imports what a training command needs; every process of a job is a fork of it.
Environment variables stand in for torchrun and SLURM.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "tools" / "lazyconfig_train_net.py"
FAULTY_TRAIN = Path(__file__).parent / "faulty_train.py"
CONFIG = ["--config-file", str(ROOT / "configs" / "detr" / "detr_small_shapes.py")]

# Even a busy machine needs only a fraction of it; reached when a test hangs.
PATIENCE = 120

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["sap_detr.engine.main"])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun_environment(rank, world_size, port, **more):
    """What torchrun sets in the processes of one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **more,
    }


class Command:
    """A script that runs in a process, the leader of its own process group.

    Args:
        log: file for what it prints.
        arguments: of its command line.
        script: file.
        environment: variables to set.
        folder: to run in; None for that of these tests.
    """

    def __init__(self, log, arguments, script=TRAIN, environment=None, folder=None):
        self.log = log
        options = (
            str(log),
            str(script),
            list(map(str, arguments)),
            dict(environment or {}),
            str(folder or os.getcwd()),
        )
        self.process = _forks.Process(target=_run, args=options)
        self.process.start()
        self.pid = self.process.pid

    @property
    def output(self):
        return self.log.read_text() if self.log.exists() else ""

    @property
    def running(self):
        return self.process.exitcode is None

    def wait_for(self, condition):
        """Waits until something is so, while the process runs."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.running, self.output[-3000:]
            assert time.monotonic() < deadline, self.output[-3000:]
            time.sleep(0.02)

    def finish(self, timeout=PATIENCE):
        """Waits for the end and returns the exit status."""
        self.process.join(timeout)
        if self.running:
            self.kill()
            raise AssertionError(f"it does not end:\n{self.output[-3000:]}")
        return self.process.exitcode

    def kill(self, number=signal.SIGKILL):
        """Sends a signal to the whole process group."""
        os.killpg(self.pid, number)
        if number == signal.SIGKILL:
            self.process.join()


def run_ranks(folder, arguments, world_size=2, script=TRAIN, **environment):
    """Starts the processes of a job as torchrun would."""
    port = free_port()
    return [
        Command(
            folder / f"rank{rank}.txt",
            arguments,
            script,
            torchrun_environment(rank, world_size, port, **environment),
        )
        for rank in range(world_size)
    ]


def finish_all(commands):
    """Waits for all processes and returns their exit statuses."""
    try:
        return [command.finish() for command in commands]
    finally:
        for command in commands:
            if command.running:
                command.kill()


def _run(log, script, arguments, environment, folder):
    os.setsid()
    os.chdir(folder)
    # Python's own, as in a command that a user types; else the one this process was started with.
    multiprocessing.set_start_method(None, force=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
