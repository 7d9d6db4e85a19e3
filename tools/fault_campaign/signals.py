"""Ask trainings to stop again and again, and compare what they arrive at with undisturbed ones."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from sap_detr.engine import PREEMPTED_STATUS

from .kills import find_problems, wait_for_save
from .training import CampaignError, Training, TrainingCommand, run_to_end

START_METHODS = ("fork", "forkserver", "spawn")
# Processes, and whether they are started by the command itself or as torchrun would.
_STARTERS = ((1, False), (2, False), (2, True))
# Seconds in which a training must end; up to those after a save begins in which signals come.
_END, _AFTER_SAVE = 60.0, 0.5
# What a training logs from when on it does at least one more step.
_BEGUN = "Starting training from iteration"


@dataclass
class SignalReport:
    """What a campaign of signals found.

    Attributes:
        signals: how many reached a training before its end.
        while_starting: how many of them came before the first iteration.
        while_saving: how many came while a checkpoint was half written.
        runs: trainings that were brought to their end and compared.
        problems: what was lost or wrong; empty if nothing.
    """

    signals: int = 0
    while_starting: int = 0
    while_saving: int = 0
    runs: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        result = "; ".join(self.problems) or (
            f"all ended with {PREEMPTED_STATUS} and a checkpoint, bit for bit as without signals"
        )
        return (
            f"{self.signals} signals, {self.while_starting} of them while starting, "
            f"{self.while_saving} while saving; {self.runs} runs compared: {result}"
        )


def signal_campaign(
    command: TrainingCommand,
    work: Path,
    count: int,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> SignalReport:
    """Send SIGTERM to all processes of trainings at random moments, and resume them every time.

    The signals are spread over the ways of starting processes, over one training process and two,
    and over loaders with and without workers. Every training must end with status 85 and, if it had
    begun, a checkpoint; and at last be the same bit for bit as without signals.

    Args:
        command: a training that writes several checkpoints; ``processes`` is not used.
        work: folder for everything.
        count: how many signals.
        seed: of the moments.
        log: takes a line about the progress.

    Raises:
        CampaignError: if an undisturbed training fails.
    """
    rng = random.Random(seed)
    report = SignalReport()
    final: dict[int, Path] = {}
    ways = list(product(_STARTERS, START_METHODS))
    for index, ((processes, starts), method) in enumerate(ways):
        if processes not in final:
            run_to_end(replace(command, processes=processes), work / f"undisturbed_{processes}")
            final[processes] = work / f"undisturbed_{processes}" / "model_final.pth"
        way = replace(command, processes=processes, starts_processes=starts, start_method=method)
        name = f"{method}_{processes}{'_started' if starts else ''}"
        until = count * (index + 1) // len(ways)
        while report.signals < until and not report.problems:
            folder = work / f"{name}_{report.runs}"
            try:
                _disturb(way, folder, until, rng, report, log)
                report.problems += find_problems(final[processes], folder)
            except CampaignError as error:
                report.problems.append(f"{name}: {error}")
            report.runs += 1
            log(f"{folder.name}: {report.problems or 'the same as undisturbed'}")
    return report


def _disturb(
    way: TrainingCommand,
    folder: Path,
    until: int,
    rng: random.Random,
    report: SignalReport,
    log: Callable[[str], None],
) -> None:
    """Bring one training to its end, with signals until there are so many in all."""
    # Seconds from the start to a checkpoint, and whether to signal before it.
    reach, early = 2.0, False
    while report.signals < until:
        workers = rng.randrange(2)
        names = [f"dataloader.{part}.num_workers={workers}" for part in ("train", "test")]
        training = Training(replace(way, overrides=(*way.overrides, *names)), folder)
        begin = time.monotonic()
        if early:
            training.ends_within(rng.uniform(0, reach))
        elif wait_for_save(training, rng.randrange(1, 3)):
            reach = time.monotonic() - begin
            training.ends_within(rng.choice((0, rng.uniform(0, _AFTER_SAVE))))
        early = not early
        saving = training.is_saving()
        training.terminate(whole_groups=True)
        statuses = training.wait(_END)
        if not any(statuses):
            return
        begun = _BEGUN in training.output()
        report.signals += 1
        report.while_starting += not begun
        report.while_saving += saving
        log(f"signal {report.signals}, {folder.name}, {workers} workers: {statuses}")
        if set(statuses) != {PREEMPTED_STATUS}:
            raise CampaignError(f"exit status {statuses}:\n{training.log_tail()}")
        if begun and not (folder / "last_checkpoint").is_file():
            raise CampaignError(f"no checkpoint in {folder}:\n{training.log_tail()}")
    run_to_end(way, folder)
