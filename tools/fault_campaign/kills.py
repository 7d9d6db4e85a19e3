"""Kill a training again and again, and compare what it arrives at with an undisturbed one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sap_detr.checkpoint import CheckpointError, load_checkpoint_file

from .comparison import first_difference, metrics_problem
from .training import CampaignError, Training, TrainingCommand, run_to_end

# Seconds in which the other processes of a job may notice by themselves that one was killed, before
# they are asked to end, as torchrun would ask them; and in which they must end then.
_NOTICE, _END = 20.0, 60.0


@dataclass
class KillReport:
    """What a campaign of kills found.

    Attributes:
        kills: how often a training was killed.
        while_saving: how often a checkpoint was half written at that time.
        one_of_several: how often only one process of a job was killed.
        asked_to_end: how often the others did not notice and had to be asked to end.
        runs: trainings that were brought to their end and compared.
        problems: what was lost or wrong; empty if nothing.
    """

    kills: int = 0
    while_saving: int = 0
    one_of_several: int = 0
    asked_to_end: int = 0
    runs: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        result = "; ".join(self.problems) or "all bit for bit as without kills"
        several = ""
        if self.one_of_several:
            several = (
                f", {self.one_of_several} of one process of several (in {self.asked_to_end} "
                "cases the others had to be asked to end)"
            )
        return (
            f"{self.kills} kills, {self.while_saving} of them while saving{several}; {self.runs} "
            f"runs compared: {result}"
        )


def kill_campaign(
    command: TrainingCommand,
    work: Path,
    kills: int,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> KillReport:
    """Kill trainings at random moments, resume them every time, and compare the final states.

    Half of the kills wait for a checkpoint that is being written. Of a job with several processes
    either all are killed or one. The others then end by themselves or, if they still wait for it to
    come, when they are asked to.

    Args:
        command: a training that writes several checkpoints.
        work: folder for everything; trainings that it already holds are continued.
        kills: how many.
        seed: of the moments.
        log: takes a line about the progress.

    Raises:
        CampaignError: if the undisturbed training fails.
    """
    rng = random.Random(seed)
    report = KillReport()
    reference = work / "undisturbed"
    duration = run_to_end(command, reference)
    final = reference / "model_final.pth"
    iterations = _iterations(final)
    log(f"undisturbed: {iterations} iterations in {duration:.1f} s")
    while report.kills < kills and not report.problems:
        folder = work / f"killed_{report.runs}"
        try:
            while _kill_once(command, folder, duration, rng, report):
                log(f"kill {report.kills}: {_newest(folder)}")
                if report.kills == kills:
                    run_to_end(command, folder)
                    break
        except CampaignError as error:
            report.problems.append(str(error))
            break
        report.runs += 1
        report.problems += find_problems(final, folder)
        log(f"run {report.runs}: {report.problems or 'the same as undisturbed'}")
    return report


def find_problems(final: Path, folder: Path) -> list[str]:
    """Return what is wrong with a training that was disturbed and came to its end.

    Args:
        final: the last checkpoint of an undisturbed one.
        folder: of the disturbed one.
    """
    problems = [
        _compare(final, folder / final.name),
        metrics_problem(folder / "metrics.json"),
        *(f"{path} was left behind" for path in folder.glob(".*.tmp")),
    ]
    return [problem for problem in problems if problem is not None]


def _compare(expected: Path, found: Path) -> str | None:
    try:
        difference = first_difference(expected, found, found.stem)
    except CheckpointError as error:
        return str(error)
    return None if difference is None else f"{found}: {difference}"


def _kill_once(
    command: TrainingCommand,
    folder: Path,
    duration: float,
    rng: random.Random,
    report: KillReport,
) -> bool:
    """Start a training and kill it; return False if it came to its end before."""
    training = Training(command, folder)
    begin = time.monotonic()
    if rng.random() < 0.5:
        saves, delay = rng.randrange(1, 4), rng.uniform(0, 0.01)
        if not wait_for_save(training, saves):
            return _check_end(training)
        begin = time.monotonic()
    else:
        delay = rng.uniform(0, duration)
    while time.monotonic() < begin + delay:
        if training.poll():
            return _check_end(training)
        time.sleep(0.001)
    report.while_saving += training.is_saving()
    several = len(training.pids) > 1
    if several and rng.random() < 0.5:
        training.kill([rng.randrange(len(training.pids))])
        report.one_of_several += 1
        report.asked_to_end += not training.ends_within(_NOTICE)
        training.terminate()
        training.wait(_END)
    else:
        training.kill()
    report.kills += 1
    return True


def wait_for_save(training: Training, count: int) -> bool:
    """Wait until the count-th checkpoint is being written.

    Returns:
        False if the training ends before.
    """
    for remaining in range(count, 0, -1):
        while not training.is_saving():
            if training.poll():
                return False
            time.sleep(0.0005)
        while remaining > 1 and training.is_saving():
            time.sleep(0.0005)
    return True


def _check_end(training: Training) -> bool:
    statuses = training.wait()
    if any(statuses):
        raise CampaignError(
            f"a resumed training failed (exit status {statuses}):\n{training.log_tail()}"
        )
    return False


def _newest(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("model_0*.pth"))
    return names[-1] if names else "no checkpoint yet"


def _iterations(final: Path) -> int:
    return int(load_checkpoint_file(final)["trainer"]["iteration"]) + 1
