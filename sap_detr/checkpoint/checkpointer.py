"""Saving and resuming a training run."""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from .integrity import read_seal
from .loading import ClassNames, LoadReport, load_weights, unwrap_model
from .published import model_state
from .safe_load import CheckpointError, load_checkpoint_file, save_checkpoint_file, write_atomically

__all__ = ["SafeCheckpointer"]

logger = logging.getLogger(__name__)

# Checkpoints without a number.
BEST, FINAL = "model_best", "model_final"


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes, safe reads, and two ways of loading kept apart.

    *Resuming* continues a run: the model must fit exactly and everything registered (optimizer,
    scheduler, EMA, trainer with its iteration, ...) must be in the file. *Loading weights* starts a
    run or an evaluation: it takes any form that `load_weights` knows and touches nothing but the
    model.

    Only the main process writes; every process must be able to read the files. A file that can't be
    written, because the disk is full for example, does not end training: it is logged, and kept in
    ``failures``.

    Args:
        model: model, also wrapped by DistributedDataParallel or torch.compile.
        save_dir: folder of the run.
        save_to_disk: by default whether this is the main process.
        class_names: the model's class names, stored in every checkpoint, compared on resuming, and
            used to copy class rows by name on loading weights.
        reinitialise: patterns of tensors that loading weights leaves at their initial values.
        max_to_keep: numbered checkpoints (`model_0000999.pth`) to keep; older ones are removed.
            None for all.
        **checkpointables: objects with `state_dict` and `load_state_dict`.

    Attributes:
        run_id: the same in all checkpoints of a run and its resumptions, and in no other's.
        resumed_from: file that the run goes on from; None if it does not.
        failures: why checkpoints could not be written, by name, as far as no later one made up for
            it.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | os.PathLike[str] = "",
        *,
        save_to_disk: bool | None = None,
        class_names: ClassNames | None = None,
        reinitialise: Sequence[str] = (),
        max_to_keep: int | None = None,
        **checkpointables: Any,
    ) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"max_to_keep must be at least 1 or None, got {max_to_keep}")
        super().__init__(
            unwrap_model(model), os.fspath(save_dir), save_to_disk=save_to_disk, **checkpointables
        )
        self.class_names = None if class_names is None else list(class_names)
        self.reinitialise = tuple(reinitialise)
        self.max_to_keep = max_to_keep
        self.load_report: LoadReport | None = None
        self.run_id = uuid.uuid4().hex
        self.resumed_from: Path | None = None
        self.failures: dict[str, str] = {}

    def save(self, name: str, *, tag_last: bool = True, **extra: Any) -> bool:
        """Write `<name>.pth`, replacing an older one atomically.

        Args:
            name: file name without suffix.
            tag_last: make it the one to resume from; not wanted for the best checkpoint so far.
            **extra: further content, e.g. `iteration`.

        Returns:
            Whether there is nothing left to write, which is always so where nothing is to be
            written; False if the disk is full or fails.

        Raises:
            FloatingPointError: weights are not finite. Nothing is written.
            CheckpointError: the content could not be read back. Nothing is written.
        """
        if not self.save_dir or not self.save_to_disk:
            return True
        if os.path.basename(name) != name:
            raise ValueError(f"A checkpoint's name can't contain a folder: {name!r}.")
        data: dict[str, Any] = {"model": self.model.state_dict()}
        data.update((key, item.state_dict()) for key, item in self.checkpointables.items())
        if self.class_names is not None:
            data["class_names"] = self.class_names
        data["run_id"] = self.run_id
        data.update(extra)
        self._require_finite(data, name)
        path = self._path(name)
        logger.info("Saving checkpoint to %s", path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint_file(data, path)
            if tag_last:
                self.tag_last_checkpoint(path.name)
        except OSError as error:
            self.failures[name] = _disk_problem(path, error)
            logger.error("%s. The next one will be tried again", self.failures[name])
            return False
        # An older numbered checkpoint that is missing is of no more use.
        self.failures = {n: e for n, e in self.failures.items() if n != name and _number(n) is None}
        if tag_last and self.max_to_keep is not None:
            self._remove_old(path)
        return True

    def require_saved(self, *names: str) -> None:
        """For the end of training, when no later checkpoint will make up for these.

        Raises:
            CheckpointError: one of them could not be written.
        """
        problems = [self.failures[name] for name in names if name in self.failures]
        if problems:
            raise CheckpointError(
                f"{'; '.join(problems)}. The run is not lost: make room and start it again with "
                "--resume, which goes on from the last checkpoint that was written"
            )

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of the folder the one to resume from."""
        with write_atomically(Path(self.save_dir) / "last_checkpoint") as temporary:
            temporary.write_text(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether the folder has anything of a run to go on from, whole or not."""
        return bool(self.save_dir and (self._tagged() or self._candidates()))

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume the run in `save_dir` if asked to and if it has a checkpoint; else load weights.

        The newest whole checkpoint is taken. Normally that is the one which `last_checkpoint`
        names. If that is missing or damaged, it is the whole one with the highest iteration; and
        one that the same run wrote later, without getting as far as naming it, comes first.

        The main process chooses for all.

        Args:
            path: weights to start from; empty for none.
            resume: whether to look for a checkpoint in `save_dir`.

        Returns:
            What the checkpoint holds besides the model and the registered objects.

        Raises:
            CheckpointError: there are checkpoints, but none of them is whole; or as `resume` does.
        """
        if resume:
            chosen = self._agree_on_checkpoint()
            if chosen is not None:
                return self.resume(str(chosen))
        return self.load(path, checkpointables=[])

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Resume from `path` if anything is to be restored besides the model; else load weights.

        Args:
            path: file, or an address that Detectron2's PathManager knows; empty for none.
            checkpointables: the registered objects to restore, by default all.

        Returns:
            What the checkpoint holds besides the model and the restored objects.
        """
        if not path:
            logger.info("No checkpoint given: the model keeps its initial values.")
            return {}
        wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        if wanted:
            return self.resume(path, wanted)
        checkpoint = self._read(path)
        self.load_report = load_weights(
            self.model,
            checkpoint,
            class_names=self.class_names,
            reinitialise=self.reinitialise,
            source=path,
        )
        # A bare state dict has nothing besides.
        return checkpoint if checkpoint.pop("model", None) is not None else {}

    def resume(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Restore the model, exactly, and the registered objects.

        Raises:
            CheckpointError: the model differs, an object is not in the file, or the classes are
                others.
        """
        wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        checkpoint = self._read(path)
        advice = (
            "To start a new run from its weights, don't resume: give the file as initial weights."
        )
        absent = [key for key in wanted if key not in checkpoint]
        if absent:
            raise CheckpointError(
                f"Can't resume from {path}: it has no {', '.join(absent)}. {advice}"
            )
        stored = checkpoint.get("class_names")
        if stored and self.class_names and list(stored) != self.class_names:
            raise CheckpointError(
                f"Can't resume from {path}: its class names or their order differ. {advice}"
            )
        try:
            self.model.load_state_dict(model_state(checkpoint))
        except RuntimeError as error:
            raise CheckpointError(f"Can't resume from {path}: {error}\n{advice}") from error
        checkpoint.pop("model")
        for key in wanted:
            try:
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
            except (KeyError, RuntimeError, ValueError) as error:
                raise CheckpointError(
                    f"Can't resume from {path}: its {key} does not fit ({error}). {advice}"
                ) from error
        self.run_id = checkpoint.pop("run_id", self.run_id)
        self.resumed_from = Path(path)
        logger.info("Resumed from %s: model%s", path, "".join(f", {key}" for key in wanted))
        return checkpoint

    def read_own(self, name: str) -> dict[str, Any]:
        """What this run, before it was resumed, wrote to `<name>.pth`; {} if it did not, or if the
        file is not whole."""
        path = self._path(name)
        if self.resumed_from is None or not path.is_file():
            return {}
        try:
            checkpoint = load_checkpoint_file(path)
        except CheckpointError as error:
            logger.warning("%s", error)
            return {}
        return checkpoint if checkpoint.get("run_id") == self.run_id else {}

    def _require_finite(self, data: Mapping[str, Any], name: str) -> None:
        trained = {parameter for parameter, _ in self.model.named_parameters()}
        for key, state in data.items():
            if not isinstance(state, Mapping) or not trained & state.keys():
                continue
            bad = non_finite_names({n: v for n, v in state.items() if n in trained})
            if bad:
                raise FloatingPointError(
                    f"{name} is not saved: its {key} has NaN or infinity in {len(bad)} parameters, "
                    f"e.g. {', '.join(bad[:5])}"
                )

    def _remove_old(self, newest: Path) -> None:
        """Removes numbered checkpoints beyond `max_to_keep`, counted back from one just written.

        Files of higher iterations, which are damaged or an earlier run's, are left alone.
        """
        last = _number(newest.stem)
        if last is None or self.max_to_keep is None:
            return
        numbers = {path: _number(path.stem) for path in self._candidates()}
        old = sorted((n, path) for path, n in numbers.items() if n is not None and n <= last)
        for _, path in old[: -self.max_to_keep]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("Could not remove the old checkpoint %s: %s", path, error)

    def _candidates(self) -> list[Path]:
        """The checkpoints of the folder by their names, those of highest iterations first.

        Files without a number follow; the best one, which is seldom the newest, comes last.
        """

        def rank(path: Path) -> tuple[int, int]:
            number = _number(path.stem)
            return (path.stem == BEST, 1) if number is None else (0, -number)

        return sorted(Path(self.save_dir).glob("model_*.pth"), key=rank)

    def _tagged(self) -> Path | None:
        """The file that `last_checkpoint` names, which may be missing."""
        tag = Path(self.save_dir) / "last_checkpoint"
        try:
            name = tag.read_text().strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            logger.warning("%s can't be read: %s", tag, error)
            return None
        if not name or not name.isprintable() or Path(name).name != name:
            logger.warning("%s does not name a file: %r", tag, name[:80])
            return None
        return Path(self.save_dir) / name

    def _agree_on_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, the same in all processes; None if there is none at all."""
        chosen, problem = None, None
        if comm.is_main_process() and self.has_checkpoint():
            try:
                chosen = self._newest_whole()
            except CheckpointError as error:
                problem = str(error)
        chosen, problem = comm.all_gather((chosen, problem))[0]
        if problem is not None:
            raise CheckpointError(problem)
        return chosen

    def _newest_whole(self) -> Path:
        damaged: dict[Path, str] = {}
        tagged = self._tagged()
        if tagged is not None:
            found = _inspect(tagged, damaged)
            if found is not None:
                return self._later_of_same_run(tagged, *found)
        last = None if tagged is None else _number(tagged.stem)
        # Whether it is no newer than the tagged one, which an earlier run's file might be.
        whole: list[tuple[bool, int, Path]] = []
        for path in self._candidates():
            # Of two with a number the first is the newer one.
            settled = any(fits for fits, _, _ in whole) and _number(path.stem) is not None
            if path in damaged or settled or (whole and path.stem == BEST):
                continue
            found = _inspect(path, damaged)
            if found is not None:
                whole.append((last is None or found[0] <= last, found[0], path))
        if not whole:
            reasons = "".join(f"\n- {reason}" for reason in damaged.values())
            raise CheckpointError(
                f"Can't resume: {self.save_dir} has checkpoints, but none of them is whole:"
                f"{reasons}\nTo start anew, give another output folder or move these files away."
            )
        _, iteration, chosen = max(whole)
        logger.warning("Going on from the newest whole one: %s, iteration %d", chosen, iteration)
        return chosen

    def _later_of_same_run(self, tagged: Path, iteration: int, run_id: str | None) -> Path:
        """Usually the tagged file; a kill may have come between a later one and its tag."""
        newest = (iteration, tagged)
        for path in self._candidates():
            number = _number(path.stem)
            if path in (tagged, self._path(BEST)) or (number is not None and number <= iteration):
                continue
            found = _inspect(path, {})
            if found is not None and run_id is not None and found[1] == run_id:
                newest = max(newest, (found[0], path))
        if newest[1] != tagged:
            logger.warning(
                "last_checkpoint names %s, but the same run has written %s after it: going on from "
                "the latter",
                tagged.name,
                newest[1].name,
            )
        return newest[1]

    def _path(self, name: str) -> Path:
        return Path(self.save_dir) / f"{name}.pth"

    def _read(self, path: str) -> dict[str, Any]:
        """Reads a file in all processes, which fail together if one of them does."""
        checkpoint: dict[str, Any] = {}
        problem: CheckpointError | None = None
        seal = None
        local = path if os.path.isfile(path) else self.path_manager.get_local_path(path)
        try:
            checkpoint = self._load_file(local)
            seal = read_seal(Path(local))
        except CheckpointError as error:
            problem = error
        # A process that fails alone would leave the others waiting.
        results = comm.all_gather((None if problem is None else str(problem), seal))
        if problem is not None:
            raise problem
        failed = [text for text, _ in results if text is not None]
        if failed:
            raise CheckpointError(
                f"{path} can be read by {len(results) - len(failed)} of {len(results)} processes "
                f"only; put it on a shared disk. {failed[0]}"
            )
        if len({found for _, found in results}) > 1:
            raise CheckpointError(
                f"{path} is not the same file for all processes; put it on a shared disk."
            )
        return checkpoint

    def _load_file(self, f: str) -> dict[str, Any]:
        return load_checkpoint_file(f)


@torch.no_grad()
def non_finite_names(state: Mapping[str, Any]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinity."""
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    if not tensors:
        return []
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return [name for name, whole in zip(tensors, finite, strict=True) if not whole]


def _number(name: str) -> int | None:
    """The iteration in the name of a periodic checkpoint, without suffix."""
    found = re.fullmatch(r"model_(\d+)", name)
    return int(found[1]) if found else None


def _inspect(path: Path, damaged: dict[Path, str]) -> tuple[int, str | None] | None:
    """Reads a checkpoint of a run.

    Returns:
        Its iteration and the run's id; None, with a reason in `damaged`, if it is not whole.
    """
    try:
        checkpoint = load_checkpoint_file(path)
        if not isinstance(checkpoint.get("model"), Mapping):
            raise CheckpointError(f"{path} has no model.")
    except CheckpointError as error:
        damaged[path] = str(error)
        logger.warning("Skipping a checkpoint: %s", error)
        return None
    trainer = checkpoint.get("trainer")
    iteration = trainer.get("iteration") if isinstance(trainer, Mapping) else None
    if not isinstance(iteration, int):
        iteration = checkpoint.get("iteration")
    if not isinstance(iteration, int):
        iteration = _number(path.stem)
    return -1 if iteration is None else iteration, checkpoint.get("run_id")


def _disk_problem(path: Path, error: OSError) -> str:
    try:
        free = f"; {shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free there"
    except OSError:
        free = ""
    return f"The checkpoint {path} could not be written: {error.strerror or error}{free}"
