"""Let the disk of a training run full."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sap_detr.checkpoint import CheckpointError, load_checkpoint_file

from .comparison import first_difference
from .training import PATIENCE, CampaignError, Training, TrainingCommand, run_to_end

_FAILED = "could not be written"


@dataclass
class DiskReport:
    """What a campaign of full disks found.

    Attributes:
        methods: how a disk was made full.
        skipped: ways that this machine does not allow, and why.
        failed_saves: checkpoints that could not be written.
        problems: what was lost or wrong.
    """

    methods: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed_saves: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        skipped = f" (skipped: {'; '.join(self.skipped)})" if self.skipped else ""
        result = "; ".join(self.problems) or "training went on, nothing was lost"
        return (
            f"full disk by {' and '.join(self.methods)}{skipped}, {self.failed_saves} checkpoints "
            f"failed: {result}"
        )


class Disk(Protocol):
    """A disk that can be filled and emptied while a training writes to it."""

    folder: Path

    def fill(self, training: Training) -> None:
        """Leave room for logs, not for a checkpoint."""

    def empty(self, training: Training) -> None:
        """Make room again."""


class LimitedFiles:
    """A limit of the operating system for the size of files, which works everywhere."""

    def __init__(self, folder: Path, checkpoint_size: int) -> None:
        self.folder = folder
        self._limit = checkpoint_size

    def fill(self, training: Training) -> None:
        self._set(training, self._limit)

    def empty(self, training: Training) -> None:
        self._set(training, resource.RLIM_INFINITY)

    def _set(self, training: Training, limit: int) -> None:
        for pid in training.pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


class SmallFileSystem:
    """A file system in memory, filled with one large file. Mounting it takes privileges."""

    def __init__(self, folder: Path, checkpoint_size: int) -> None:
        self.folder = folder
        self._room = checkpoint_size // 2
        self._filler = folder / "filler"
        size = 16 * checkpoint_size
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        folder.mkdir(parents=True)
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise PermissionError("there is no mount command") from error
        if done.returncode:
            raise PermissionError(done.stderr.strip())

    def fill(self, training: Training) -> None:
        free = shutil.disk_usage(self.folder).free
        self._filler.write_bytes(bytes(max(free - self._room, 0)))

    def empty(self, training: Training) -> None:
        self._filler.unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=False)


def full_disk_campaign(
    command: TrainingCommand, work: Path, log: Callable[[str], None] = print
) -> DiskReport:
    """Let the disk run full for some checkpoints, and, another time, until the end.

    Args:
        command: a training that writes several checkpoints.
        work: folder for everything.
        log: takes a line about the progress.

    Raises:
        CampaignError: if a training with an empty disk fails.
    """
    report = DiskReport()
    reference = work / "empty_disk"
    run_to_end(command, reference)
    # A little less: what else a checkpoint holds differs by a few bytes.
    size = int(0.9 * min(path.stat().st_size for path in reference.glob("model_*.pth")))
    limited = LimitedFiles(work / "limited_files", size)
    report.methods.append("a limit of the size of files")
    report.problems += _fill_for_a_while(command, limited, reference, report)
    report.problems += _never_empty(command, work / "always_full", size, reference, report)
    log(f"{report.methods[-1]}: {report.problems or 'nothing lost'}")
    try:
        small = SmallFileSystem(work / "small_file_system", size)
    except PermissionError as error:
        report.skipped.append(f"a small file system, as it can't be mounted: {error}")
        return report
    try:
        report.methods.append("a small file system")
        report.problems += _fill_for_a_while(command, small, reference, report)
        log(f"{report.methods[-1]}: {report.problems or 'nothing lost'}")
    finally:
        small.unmount()
    return report


def _fill_for_a_while(
    command: TrainingCommand, disk: Disk, reference: Path, report: DiskReport
) -> list[str]:
    """Fill the disk after the first checkpoint, empty it after one has failed."""
    folder = disk.folder / "run"
    training = Training(command, folder)
    problems = []
    _wait_until(training, lambda: any(folder.glob("model_0*.pth")) and not training.is_saving())
    disk.fill(training)
    _wait_until(training, lambda: _FAILED in training.log_tail(10**6))
    whole = [path for path in folder.glob("model_0*.pth") if _is_whole(path)]
    if not whole:
        problems.append(f"{folder}: no whole checkpoint was left")
    disk.empty(training)
    statuses = training.wait()
    report.failed_saves += training.log_tail(10**7).count(_FAILED)
    if any(statuses):
        return [*problems, f"{folder}: ended with {statuses}: ...{training.log_tail()}"]
    return problems + _compare(reference, folder) + _leftovers(folder)


def _never_empty(
    command: TrainingCommand, folder: Path, size: int, reference: Path, report: DiskReport
) -> list[str]:
    """Train where no checkpoint can be written: the end must say so, and a second try mend it."""
    training = Training(command, folder, max_file_size=size)
    statuses = training.wait()
    log = training.log_tail(10**7)
    report.failed_saves += log.count(_FAILED)
    problems = _leftovers(folder)
    if not any(statuses):
        problems.append(f"{folder}: ended with exit status 0 without its last checkpoint")
    if not re.search(r"^error: .*model_final.pth could not be written", log, re.MULTILINE):
        problems.append(f"{folder}: what was wrong is not said at the end")
    problems += [f"{path} was written in part" for path in folder.glob("*.pth")]
    run_to_end(command, folder)
    return problems + _compare(reference, folder)


def _compare(reference: Path, folder: Path) -> list[str]:
    name = "model_final.pth"
    difference = first_difference(reference / name, folder / name, "model_final")
    return [] if difference is None else [f"{folder}: {difference}"]


def _wait_until(training: Training, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if training.poll() or time.monotonic() > deadline:
            training.kill()
            raise CampaignError(
                f"the training was over before its disk was full: let it take longer; "
                f"{training.log_tail()}"
            )
        time.sleep(0.002)


def _is_whole(path: Path) -> bool:
    try:
        load_checkpoint_file(path)
    except CheckpointError:
        return not os.path.exists(path)  # removed as the oldest one in the meantime
    return True


def _leftovers(folder: Path) -> list[str]:
    return [f"{path} was left behind" for path in folder.glob(".*.tmp")]
