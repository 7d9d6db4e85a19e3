"""Damage checkpoints, and look whether resumed trainings notice and go on from whole ones."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sap_detr.checkpoint import CheckpointError, load_checkpoint_file

from .comparison import first_difference
from .training import CampaignError, Training, TrainingCommand, run_to_end


@dataclass
class DamageReport:
    """What a campaign of damages found.

    Attributes:
        files: how many checkpoints were damaged, by what was done to them.
        resumed: trainings that went on from an older, whole checkpoint.
        refused: trainings that had none left and said so.
        problems: what was loaded nevertheless, or lost.
    """

    files: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.files.items()))
        result = "; ".join(self.problems) or "none loaded, all results bit for bit as undamaged"
        return (
            f"{sum(self.files.values())} damaged checkpoints ({kinds}); {self.resumed} trainings "
            f"resumed from older ones, {self.refused} refused to: {result}"
        )


def damage_campaign(
    command: TrainingCommand,
    work: Path,
    damages: int,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> DamageReport:
    """Damage the newest checkpoints of trainings and resume these.

    Mostly one or two, of which the older ones must take over; now and then all, which must be an
    error. `last_checkpoint` is sometimes lost or overwritten, too.

    Args:
        command: a training that keeps several checkpoints.
        work: folder for everything.
        damages: how many checkpoints to damage, at least.
        seed: of the kinds of damage and their places.
        log: takes a line about the progress.

    Raises:
        CampaignError: if an undamaged training fails, or keeps fewer than two checkpoints.
    """
    rng = random.Random(seed)
    report = DamageReport()
    reference = work / "undamaged"
    run_to_end(command, reference)
    if len(_numbered(reference)) < 2:
        raise CampaignError(f"{reference} has fewer than two checkpoints")
    trial = 0
    while sum(report.files.values()) < damages and not report.problems:
        folder = work / f"damaged_{trial}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(reference, folder)
        for name in ("model_final.pth", "model_best.pth"):
            (folder / name).unlink(missing_ok=True)
        files = _numbered(folder)
        count = len(files) if trial % 5 == 4 else rng.randrange(1, len(files))
        done = [_damage(path, reference / path.name, rng, report) for path in files[:count]]
        _change_tag(folder, files[0].name, rng)
        report.problems += [f"{folder}: {p} was loaded" for p in files[:count] if _loads(p)]
        report.problems += _resume(command, folder, count == len(files), reference, report)
        log(f"training {trial}: {', '.join(done)}: {report.problems or 'noticed'}")
        shutil.rmtree(folder)
        trial += 1
    return report


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("model_0*.pth"), reverse=True)


def _damage(path: Path, undamaged: Path, rng: random.Random, report: DamageReport) -> str:
    kind = _change(path, rng)
    # A date in the table of the archive or its padding may change: nothing is lost then.
    while _holds_the_same(path, undamaged):
        shutil.copyfile(undamaged, path)
        kind = _change(path, rng)
    report.files[kind] = report.files.get(kind, 0) + 1
    return f"{path.name} {kind}"


def _change(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    kind = rng.choice(["cut", "with a flipped bit", "with a block of zeros", "longer", "empty"])
    if kind == "cut":
        content = content[: rng.randrange(1, len(content))]
    elif kind == "with a flipped bit":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "with a block of zeros":
        # A block of a disk that was never written, unless it held zeros anyway.
        starts = [i for i in range(0, len(content), 512) if any(content[i : i + 512])]
        start = rng.choice(starts)
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    elif kind == "longer":
        content += rng.randbytes(rng.randrange(1, 1000))
    else:
        content.clear()
    path.write_bytes(content)
    return kind


def _holds_the_same(path: Path, undamaged: Path) -> bool:
    try:
        return first_difference(undamaged, path) is None
    except CheckpointError:
        return False


def _change_tag(folder: Path, newest: str, rng: random.Random) -> None:
    tag = folder / "last_checkpoint"
    tag.write_text(newest)
    kind = rng.randrange(4)
    if kind == 0:
        tag.unlink()
    elif kind == 1:
        tag.write_bytes(rng.randbytes(20))


def _loads(path: Path) -> bool:
    try:
        load_checkpoint_file(path)
    except CheckpointError:
        return False
    return True


def _resume(
    command: TrainingCommand, folder: Path, all_damaged: bool, reference: Path, report: DamageReport
) -> list[str]:
    training = Training(command, folder)
    statuses = training.wait()
    final = folder / "model_final.pth"
    if all_damaged:
        report.refused += 1
        told = "none of them is whole" in training.log_tail(10**6)
        if all(statuses) and told and not final.exists():
            return []
        return [f"{folder}: started without a whole checkpoint (exit status {statuses})"]
    report.resumed += 1
    if any(statuses):
        return [f"{folder}: could not resume (exit status {statuses}): {training.log_tail()}"]
    difference = first_difference(reference / final.name, final, final.stem)
    return [] if difference is None else [f"{folder}: {difference}"]
