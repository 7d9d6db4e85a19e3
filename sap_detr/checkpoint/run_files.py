"""The checkpoints in the folder of a run: how they are called, and which one to go on from."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .safe_load import CheckpointError, load_checkpoint_file

logger = logging.getLogger(__name__)

# Names without suffix, as Detectron2 has them: of the best checkpoint, and of that at the end.
BEST, FINAL = "model_best", "model_final"
TAG = "last_checkpoint"
"""The file that names the newest checkpoint."""


def step_name(iteration: int) -> str:
    """Return the name of the checkpoint after an iteration, counted from 0: `model_0000999`."""
    return f"model_{iteration:07d}"


def iteration_of(path: Path) -> int | None:
    """Return the iteration in a checkpoint's name; None for the best and the final one."""
    found = re.fullmatch(r"model_(\d+)", path.stem)
    return int(found[1]) if found else None


def run_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints of a folder by their names, those of highest iterations first.

    Files without a number follow; the best one, which is seldom the newest, comes last.
    """

    def rank(path: Path) -> tuple[int, int]:
        number = iteration_of(path)
        return (path.stem == BEST, 1) if number is None else (0, -number)

    return sorted(folder.glob("model_*.pth"), key=rank)


def tagged_checkpoint(folder: Path) -> Path | None:
    """Return the file that `last_checkpoint` names, which may be missing."""
    tag = folder / TAG
    try:
        name = tag.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        name = ""
    if not name or not name.isprintable() or Path(name).name != name:
        logger.warning("%s does not name a file: %r", tag, name[:80])
        return None
    return folder / name


def newest_whole(folder: Path) -> Path | None:
    """Choose the checkpoint to go on from.

    Normally that is the one which `last_checkpoint` names, or one that the same run wrote later and
    was ended before naming it. If the named one is missing or damaged, it is the whole one with the
    highest iteration; those beyond the named one, which an earlier run may have left, come last.

    Returns:
        The file; None if there is no checkpoint, whole or not.

    Raises:
        CheckpointError: there are checkpoints, but none of them is whole.
    """
    tagged = tagged_checkpoint(folder)
    paths = run_checkpoints(folder)
    if tagged is None and not paths:
        return None
    damaged: dict[Path, str] = {}
    named = None if tagged is None else _read(tagged, damaged)
    last = None if tagged is None else iteration_of(tagged)
    # With each, whether it is of this run, as far as can be told.
    whole: list[tuple[bool, _Whole]] = [] if named is None else [(True, named)]
    for path in paths:
        number = iteration_of(path)
        is_older = number is not None and any(own and number <= w.iteration for own, w in whole)
        if path == tagged or is_older or (whole and path.stem == BEST):
            continue
        found = _read(path, damaged)
        if found is not None and named is not None:
            whole.append((found.run_id == named.run_id != "", found))
        elif found is not None:
            whole.append((last is None or found.iteration <= last, found))
    if not whole:
        reasons = "".join(f"\n- {reason}" for reason in damaged.values())
        raise CheckpointError(
            f"Can't resume: {folder} has checkpoints, but none of them is whole:{reasons}\n"
            "To start anew, give another output folder or move these files away."
        )
    _, chosen = max(whole)
    if chosen is not named:
        logger.warning(
            "%s does not name the newest whole one: going on from %s, iteration %d",
            folder / TAG,
            chosen.path.name,
            chosen.iteration,
        )
    return chosen.path


class _Whole(NamedTuple):
    """A checkpoint that can be read; the later one is the larger."""

    iteration: int
    path: Path
    run_id: str


def _read(path: Path, damaged: dict[Path, str]) -> _Whole | None:
    """Read a checkpoint of a run; None, with a reason in `damaged`, if it is not whole."""
    try:
        checkpoint = load_checkpoint_file(path)
        if not isinstance(checkpoint.get("model"), Mapping):
            raise CheckpointError(f"{path} has no model.")
    except CheckpointError as error:
        damaged[path] = str(error)
        logger.warning("Skipping a checkpoint: %s", error)
        return None
    trainer = checkpoint.get("trainer")
    recorded = trainer.get("iteration") if isinstance(trainer, Mapping) else None
    found = (recorded, checkpoint.get("iteration"), iteration_of(path), -1)
    iteration = next(value for value in found if isinstance(value, int))
    return _Whole(iteration, path, str(checkpoint.get("run_id") or ""))
