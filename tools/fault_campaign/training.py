"""Start the trainings that a campaign breaks: the real command, in forked processes.

Importing everything takes seconds, and a campaign starts a training hundreds of times. So the
campaign imports it once and forks a process for every training; there the command line's own
``main`` runs. Several processes are told about each other as torchrun would tell them.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

# What a training needs sooner or later is imported here, once.
import torch.utils.tensorboard

from sap_detr.engine.main import main as train_main
from sap_detr.engine.preemption import STOP_SIGNALS

# Seconds that a training may take to end after its time.
PATIENCE = 300.0


class CampaignError(Exception):
    """A campaign can't go on: a training that should have ended well did not."""


@dataclass(frozen=True)
class TrainingCommand:
    """A training, without its output folder.

    Attributes:
        config_file: as on the command line.
        overrides: changes to it.
        processes: number of training processes on this machine.
        starts_processes: whether the command starts them itself.
        start_method: of multiprocessing, for all that the command starts; None: Python's own.
    """

    config_file: str
    overrides: tuple[str, ...]
    processes: int = 1
    starts_processes: bool = False
    start_method: str | None = None

    def argv(self, folder: Path) -> list[str]:
        """Return the command line, which goes on from what is in the folder."""
        output = f"train.output_dir={folder}"
        processes = ["--num-gpus", str(self.processes)] if self.starts_processes else []
        return ["--config-file", self.config_file, "--resume", *processes, *self.overrides, output]


def tiny_overrides(data: Path, iterations: int = 40, period: int = 4) -> tuple[str, ...]:
    """Return changes that make ``detr/detr_small_shapes.py`` a training of a second, with all on.

    Args:
        data: folder for the generated images.
        iterations: length of the training.
        period: iterations between two checkpoints.
    """
    return (
        "dataset.name=fault_campaign",
        f"dataset.folder={data}",
        "dataset.num_train=24",
        "dataset.num_val=4",
        "dataset.image_size=[48,48]",
        "dataloader.train.mapper.augmentations.short_sides=[40,48]",
        "dataloader.test.mapper.augmentations.short_side=48",
        "dataloader.train.total_batch_size=4",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "model.backbone.width=8",
        "model.neck.in_channels=[16]",
        "model.neck.embed_dim=32",
        "model.encoder.num_layers=1",
        "model.encoder.ffn_dim=32",
        "model.encoder.dropout=0.1",
        "model.decoder.num_layers=2",
        "model.decoder.num_queries=6",
        "model.decoder.ffn_dim=32",
        "lr_multiplier.warmup_length=0.1",
        f"train.max_iter={iterations}",
        f"train.checkpointer.period={period}",
        "train.checkpointer.max_to_keep=3",
        f"train.eval_period={3 * period}",
        "train.ema.enabled=true",
        "train.log_period=5",
        "train.device=cpu",
    )


class Training:
    """A running training.

    Args:
        command: what to run.
        folder: where it writes; the log of all its processes goes beside it.
        max_file_size: bytes that a file may have in it, for a disk that seems full; None for any.
    """

    def __init__(
        self, command: TrainingCommand, folder: Path, max_file_size: int | None = None
    ) -> None:
        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.log")
        self._log_start = self.log.stat().st_size if self.log.is_file() else 0
        self.statuses: dict[int, int] = {}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pids: list[int] = []
        forks = 1 if command.starts_processes else command.processes
        # As in the script: requests to stop wait until main() obeys them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for rank in range(forks):
            pid = os.fork()
            if pid == 0:
                environment = _torchrun_environment(rank, forks, port)
                multiprocessing.set_start_method(command.start_method, force=True)
                _run(command.argv(folder), self.log, environment, max_file_size)
            # Here as well as there: which of the two comes first is open.
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.setpgid(pid, pid)
            self.pids.append(pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def poll(self) -> bool:
        """Return whether all processes have ended."""
        for pid in self.pids:
            if pid not in self.statuses:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.statuses[pid] = os.waitstatus_to_exitcode(status)
        return len(self.statuses) == len(self.pids)

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """Wait for the end.

        Returns:
            The exit status of every process, negative for signals.

        Raises:
            CampaignError: if it takes longer. All processes are killed.
        """
        if not self.ends_within(seconds):
            self.kill()
            raise CampaignError(f"the training did not end in {seconds:.0f} s; see {self.log}")
        return [self.statuses[pid] for pid in self.pids]

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end for some time; return whether it came."""
        deadline = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def terminate(self, whole_groups: bool = False) -> None:
        """Ask the processes that are left to end.

        Args:
            whole_groups: whether the signal also goes to all that they have started.
        """
        for pid in self.pids:
            if pid not in self.statuses:
                (os.killpg if whole_groups else os.kill)(pid, signal.SIGTERM)

    def kill(self, ranks: Sequence[int] | None = None) -> None:
        """End processes as a power cut would, and wait until they are gone.

        Args:
            ranks: which; None for all.
        """
        chosen = [p for r, p in enumerate(self.pids) if ranks is None or r in ranks]
        alive = [pid for pid in chosen if pid not in self.statuses]
        for pid in alive:
            os.killpg(pid, signal.SIGKILL)
        for pid in alive:
            _, status = os.waitpid(pid, 0)
            self.statuses[pid] = os.waitstatus_to_exitcode(status)

    def is_saving(self) -> bool:
        """Return whether a checkpoint is half written."""
        return any(self.folder.glob(".model_*.tmp"))

    def output(self) -> str:
        """Return what this training has printed."""
        if not self.log.is_file():
            return ""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def log_tail(self, size: int = 400) -> str:
        """Return the last characters of what was printed."""
        return self.output()[-size:]


def run_to_end(command: TrainingCommand, folder: Path) -> float:
    """Train, or go on training, without disturbing it; return the seconds that took.

    Raises:
        CampaignError: if it fails.
    """
    start = time.monotonic()
    training = Training(command, folder)
    statuses = training.wait()
    if any(statuses):
        raise CampaignError(
            f"an undisturbed training failed (exit status {statuses}):\n{training.log_tail()}"
        )
    return time.monotonic() - start


def _torchrun_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    if processes == 1:
        return {}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _run(
    argv: list[str], log: Path, environment: dict[str, str], max_file_size: int | None
) -> NoReturn:
    """Run the command line in the forked process and end it."""
    status = 1
    try:
        # A group of its own, with the workers of its data loaders.
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(environment)
        torch.set_num_threads(1)
        if max_file_size is not None:
            # Python ignores the signal that comes with it: writing fails with an OSError.
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, resource.RLIM_INFINITY))
        status = train_main(argv)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
