"""Saving and resuming a training run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from .loading import ClassNames, LoadReport, load_weights, unwrap_model
from .published import model_state
from .safe_load import CheckpointError, load_checkpoint_file, save_checkpoint_file, write_atomically

__all__ = ["SafeCheckpointer"]

logger = logging.getLogger(__name__)


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes, safe reads, and two ways of loading kept apart.

    *Resuming* continues a run: the model must fit exactly and everything registered (optimizer,
    scheduler, EMA, trainer with its iteration, ...) must be in the file. *Loading weights* starts a
    run or an evaluation: it takes any form that `load_weights` knows and touches nothing but the
    model.

    Only the main process writes; every process must be able to read the files.

    Args:
        model: model, also wrapped by DistributedDataParallel or torch.compile.
        save_dir: folder of the run.
        save_to_disk: by default whether this is the main process.
        class_names: the model's class names, stored in every checkpoint, compared on resuming, and
            used to copy class rows by name on loading weights.
        reinitialise: patterns of tensors that loading weights leaves at their initial values.
        **checkpointables: objects with `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | os.PathLike[str] = "",
        *,
        save_to_disk: bool | None = None,
        class_names: ClassNames | None = None,
        reinitialise: Sequence[str] = (),
        **checkpointables: Any,
    ) -> None:
        super().__init__(
            unwrap_model(model), os.fspath(save_dir), save_to_disk=save_to_disk, **checkpointables
        )
        self.class_names = None if class_names is None else list(class_names)
        self.reinitialise = tuple(reinitialise)
        self.load_report: LoadReport | None = None

    def save(self, name: str, *, tag_last: bool = True, **extra: Any) -> None:
        """Write `<name>.pth`, replacing an older one atomically.

        Args:
            name: file name without suffix.
            tag_last: make it the one to resume from; not wanted for the best checkpoint so far.
            **extra: further content, e.g. `iteration`.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        if os.path.basename(name) != name:
            raise ValueError(f"A checkpoint's name can't contain a folder: {name!r}.")
        data: dict[str, Any] = {"model": self.model.state_dict()}
        data.update((key, item.state_dict()) for key, item in self.checkpointables.items())
        if self.class_names is not None:
            data["class_names"] = self.class_names
        data.update(extra)
        path = Path(self.save_dir) / f"{name}.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        logger.info("Saving checkpoint to %s", path)
        save_checkpoint_file(data, path)
        if tag_last:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of the folder the one to resume from."""
        with write_atomically(Path(self.save_dir) / "last_checkpoint") as temporary:
            temporary.write_text(last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume the run in `save_dir` if asked to and if it has a checkpoint; else load weights.

        Args:
            path: weights to start from; empty for none.
            resume: whether to look for a checkpoint in `save_dir`.

        Returns:
            What the checkpoint holds besides the model and the registered objects.
        """
        if resume and self.has_checkpoint():
            return self.resume(self.get_checkpoint_file())
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
            self.checkpointables[key].load_state_dict(checkpoint.pop(key))
        logger.info("Resumed from %s: model%s", path, "".join(f", {key}" for key in wanted))
        return checkpoint

    def _read(self, path: str) -> dict[str, Any]:
        local = path if os.path.isfile(path) else self.path_manager.get_local_path(path)
        # A process that fails alone, for lack of the file, would leave the others waiting.
        readable = comm.all_gather(os.path.isfile(local))
        if os.path.isfile(local) and not all(readable):
            raise CheckpointError(
                f"{path} can be read by {sum(readable)} of {len(readable)} processes only; put it "
                "on a shared disk."
            )
        return self._load_file(local)

    def _load_file(self, f: str) -> dict[str, Any]:
        return load_checkpoint_file(f)
