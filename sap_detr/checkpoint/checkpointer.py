"""Saving and resuming a training run."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from .class_rows import ClassNames
from .integrity import fingerprint
from .loading import LoadReport, load_weights, non_finite_names, unwrap_model
from .processes import by_one_process
from .run_files import BEST, FINAL, TAG, iteration_of, newest_whole, run_checkpoints
from .safe_load import CheckpointError, load_checkpoint_file
from .safe_save import save_checkpoint_file, write_atomically
from .weight_sets import RAW, SCORED, model_state, raw_first, scored_first

logger = logging.getLogger(__name__)


class SafeCheckpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Detectron2's checkpointer with atomic writes, safe reads, and two ways of loading kept apart.

    A moving average, registered as ``ema``, is what a checkpoint has under ``model``, see
    :mod:`.weight_sets`.

    *Resuming* continues a run: the model must fit exactly and everything registered (optimizer,
    scheduler, EMA, trainer with its iteration, ...) must be in the file. *Loading weights* starts a
    run or an evaluation: it takes any form that `load_weights` knows and touches nothing but the
    model.

    Only the main process writes; every process must be able to read the files. A file that can't be
    written, because the disk is full for example, does not end training: it is logged, and kept in
    ``failures``.

    Args:
        model: model, also wrapped by DistributedDataParallel or torch.compile.
        save_dir: folder of the run; empty to write nothing.
        class_names: the model's class names, stored in every checkpoint, compared on resuming, and
            used to copy class rows by name on loading weights.
        max_to_keep: numbered checkpoints (`model_0000999.pth`) to keep; older ones are removed.
            None for all.
        description: of the model, as data, see :mod:`sap_detr.engine.model_description`. With it,
            the best and the final weights are also written to a `.safetensors` file each, which
            needs no config: those that evaluations score.
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
        class_names: ClassNames | None = None,
        max_to_keep: int | None = None,
        description: Mapping[str, Any] | None = None,
        **checkpointables: Any,
    ) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"max_to_keep must be at least 1 or None, got {max_to_keep}")
        super().__init__(unwrap_model(model), os.fspath(save_dir), **checkpointables)
        self.class_names = None if class_names is None else list(class_names)
        self.max_to_keep = max_to_keep
        self.description = description
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
            content = scored_first(data)
            if self.description is not None and name in (BEST, FINAL):
                # Before the other, by which a run that goes on sees whether it has to write both.
                portable = {"description": self.description, **content}
                save_checkpoint_file(portable, path.with_suffix(".safetensors"))
            save_checkpoint_file(content, path)
            if tag_last:
                self.tag_last_checkpoint(path.name)
        except OSError as error:
            self.failures[name] = _disk_problem(path, error)
            logger.error("%s. The next one will be tried again", self.failures[name])
            return False
        # An older numbered checkpoint that is missing is of no more use.
        kept = [other for other in self.failures if iteration_of(self._path(other)) is None]
        self.failures = {other: self.failures[other] for other in kept if other != name}
        if tag_last and self.max_to_keep is not None:
            self._remove_old(path)
        return True

    def require_saved(self, *names: str) -> None:
        """Raise if these are missing: at the end of training no later ones will make up for them.

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
        with write_atomically(Path(self.save_dir) / TAG) as temporary:
            temporary.write_text(last_filename_basename)

    def resume_or_load(
        self,
        path: str,
        *,
        resume: bool = True,
        weights: str = SCORED,
        reinitialise: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Resume the run in `save_dir` if asked to and if it has a checkpoint; else load weights.

        The newest whole checkpoint is taken, see `newest_whole`; the main process chooses for all.

        Args:
            path: weights to start from; empty for none.
            resume: whether to look for a checkpoint in `save_dir`.
            weights: which of them to load, not on resuming; see `model_state`.
            reinitialise: patterns of names that are not loaded, not on resuming either.

        Returns:
            What the checkpoint holds besides the model and the registered objects.

        Raises:
            CheckpointError: there are checkpoints, but none of them is whole; or as `resume` does.
        """
        chosen = None
        if resume and self.save_dir:
            chosen = by_one_process(partial(newest_whole, Path(self.save_dir)))
        if chosen is not None:
            return self.resume(str(chosen))
        return self.load(path, weights=weights, reinitialise=reinitialise)

    def load(
        self, path: str, *, weights: str = SCORED, reinitialise: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Load weights, see `load_weights`, and nothing else; `resume` restores all.

        Args:
            path: file, or an address that Detectron2's PathManager knows; empty for none.
            weights: which of them, if there is a moving average; see `model_state`.
            reinitialise: patterns of names that keep the model's values; see `load_weights`.

        Returns:
            What the checkpoint holds besides the model.
        """
        if not path:
            logger.info("No checkpoint given: the model keeps its initial values.")
            return {}
        checkpoint = self._read(path)
        self.load_report = load_weights(
            self.model,
            checkpoint,
            class_names=self.class_names,
            source=path,
            weights=weights,
            reinitialise=reinitialise,
        )
        # A bare state dict has nothing besides.
        return checkpoint if checkpoint.pop("model", None) is not None else {}

    def resume(self, path: str) -> dict[str, Any]:
        """Restore the model, exactly, and the registered objects.

        Raises:
            CheckpointError: the model differs, an object is not in the file, or the classes are
                others.
        """
        checkpoint = raw_first(self._read(path))
        try:
            absent = [key for key in self.checkpointables if key not in checkpoint]
            if absent:
                raise CheckpointError(f"it has no {', '.join(absent)}")
            stored = checkpoint.get("class_names")
            if stored and self.class_names and list(stored) != self.class_names:
                raise CheckpointError("its class names or their order differ")
            self.model.load_state_dict(model_state(checkpoint, RAW))
            checkpoint.pop("model")
            for key, item in self.checkpointables.items():
                try:
                    item.load_state_dict(checkpoint.pop(key))
                except (KeyError, RuntimeError, ValueError) as error:
                    raise CheckpointError(f"its {key} does not fit ({error})") from error
        except (CheckpointError, RuntimeError) as error:
            raise CheckpointError(
                f"Can't resume from {path}: {error}. To start a new run from its weights, don't "
                "resume: give the file as initial weights."
            ) from error
        self.run_id = checkpoint.pop("run_id", self.run_id)
        self.resumed_from = Path(path)
        logger.info("Resumed from %s: %s", path, ", ".join(["model", *self.checkpointables]))
        return checkpoint

    def read_own(self, name: str) -> dict[str, Any]:
        """Return what this run, before it was resumed, wrote to `<name>.pth`.

        {} if it did not, or if the file is not whole.
        """
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
        """Remove numbered checkpoints beyond `max_to_keep`, counted back from one just written.

        Files of higher iterations, which are damaged or an earlier run's, are left alone.
        """
        numbered = [
            path for path in run_checkpoints(newest.parent) if iteration_of(path) is not None
        ]
        if newest not in numbered or self.max_to_keep is None:
            return
        for path in numbered[numbered.index(newest) + self.max_to_keep :]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("Could not remove the old checkpoint %s: %s", path, error)

    def _path(self, name: str) -> Path:
        return Path(self.save_dir) / f"{name}.pth"

    def _read(self, path: str) -> dict[str, Any]:
        """Read a file in all processes, which fail together if one of them does."""
        checkpoint: dict[str, Any] = {}
        outcome: int | CheckpointError
        local = path if os.path.isfile(path) else self.path_manager.get_local_path(path)
        try:
            checkpoint = load_checkpoint_file(local)
            outcome = fingerprint(Path(local))
        except CheckpointError as error:
            outcome = error
        # A process that fails alone would leave the others waiting.
        outcomes = comm.all_gather(outcome)
        failed = [found for found in outcomes if isinstance(found, CheckpointError)]
        if len(failed) == len(outcomes):
            raise failed[0]
        if failed:
            raise CheckpointError(
                f"{path} can be read by {len(outcomes) - len(failed)} of {len(outcomes)} processes "
                f"only; put it on a shared disk. {failed[0]}"
            )
        if len(set(outcomes)) > 1:
            raise CheckpointError(
                f"{path} is not the same file for all processes; put it on a shared disk."
            )
        return checkpoint


def _disk_problem(path: Path, error: OSError) -> str:
    try:
        free = f"; {shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free there"
    except OSError:
        free = ""
    return f"The checkpoint {path} could not be written: {error.strerror or error}{free}"
