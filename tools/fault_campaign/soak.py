"""Watch the memory of a long training."""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from detectron2.engine import HookBase

from sap_detr.config import load_config
from sap_detr.engine import DetectionTrainer, prepare_data, setup_run

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class SoakReport:
    """The memory of a training over its iterations.

    Attributes:
        iterations: at which memory was looked at.
        mebibytes: resident memory of the training process.
        workers_mebibytes: of the workers of its data loaders together.
        warm_up: iterations that don't count.
    """

    warm_up: int
    iterations: list[int] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    workers_mebibytes: list[float] = field(default_factory=list)

    def growth(self, series: list[float]) -> float:
        """Return the MiB from the median of the first quarter after the warm-up to the last's."""
        values = [v for i, v in zip(self.iterations, series, strict=True) if i >= self.warm_up]
        quarter = max(len(values) // 4, 1)
        return statistics.median(values[-quarter:]) - statistics.median(values[:quarter])

    def __str__(self) -> str:
        last = self.iterations[-1] + 1
        text = (
            f"{last} iterations: {self.mebibytes[-1]:.1f} MiB, growth after the first "
            f"{self.warm_up} {self.growth(self.mebibytes):+.2f} MiB"
        )
        if any(self.workers_mebibytes):
            text += (
                f"; workers {self.workers_mebibytes[-1]:.1f} MiB, growth "
                f"{self.growth(self.workers_mebibytes):+.2f} MiB"
            )
        return text


class MemoryProbe(HookBase):  # type: ignore[misc]
    """Note the memory that is in use.

    Args:
        report: takes the numbers.
        period: iterations between two looks.
    """

    def __init__(self, report: SoakReport, period: int) -> None:
        self._report = report
        self._period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0:
            workers = [child.pid for child in multiprocessing.active_children()]
            self._report.iterations.append(self.trainer.iter)
            self._report.mebibytes.append(resident_mebibytes(os.getpid()))
            total = sum(resident_mebibytes(pid) for pid in workers if pid is not None)
            self._report.workers_mebibytes.append(total)


def resident_mebibytes(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE / 2**20


def soak(
    config_file: str,
    overrides: tuple[str, ...],
    folder: Path,
    warm_up: int = 200,
    period: int = 20,
    log: Callable[[str], None] = print,
) -> SoakReport:
    """Train in this process and watch its memory.

    Args:
        config_file, overrides: the training, with ``train.max_iter``.
        folder: its output.
        warm_up: iterations in which memory may grow.
        period: iterations between two looks.
        log: takes a line about the progress.
    """
    torch.set_num_threads(1)
    cfg = load_config(config_file, [*overrides, f"train.output_dir={folder}"])
    prepare_data(cfg)
    setup_run(cfg)
    report = SoakReport(warm_up)
    trainer = DetectionTrainer(cfg)
    trainer.register_hooks([MemoryProbe(report, period)])
    trainer.resume_or_load(resume=False)
    trainer.train()
    log(str(report))
    return report
