"""A lock that keeps two runs from writing to the same folder."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from pathlib import Path

from detectron2.utils import comm

from .safe_load import CheckpointError, remove_temporary_files

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_NAME", "lock_run_folder", "release_run_folder"]

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"

# Open descriptors of the locks that this process holds. Closing one gives the lock up.
_held: dict[Path, int] = {}
# Locks are not inherited.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)


def lock_run_folder(folder: str | os.PathLike[str]) -> None:
    """Takes a folder for this run, until `release_run_folder` or the end of the process.

    The main process of a run holds the lock; all processes must call this. The operating system
    gives it back when the process ends, however that happens. What a killed run left half written
    is removed. A process that has the lock already keeps it. On file systems without locks a
    warning is all that happens.

    Raises:
        CheckpointError: in all processes, if another run has the folder, or it can't be written to.
    """
    problem = None
    if comm.is_main_process():
        try:
            problem = _try_to_lock(Path(folder))
        except OSError as error:
            problem = f"train.output_dir={folder} can't be written to: {error.strerror}"
    problem = comm.all_gather(problem)[0]
    if problem is not None:
        raise CheckpointError(problem)


def release_run_folder(folder: str | os.PathLike[str]) -> None:
    """Gives a folder back, if this process has it."""
    descriptor = _held.pop(Path(folder).resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def _try_to_lock(folder: Path) -> str | None:
    """Returns why it is not possible."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    path = folder / LOCK_NAME
    if fcntl is None or _is_held(path):
        return None
    release_run_folder(folder)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Not flock: workers of data loaders would inherit it and outlive a killed process.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return (
                f"another run writes to {folder} ({owner or 'unknown process'}). Wait for it, end "
                "it, or set another train.output_dir"
            )
        logger.warning(
            f"{folder} can't be locked ({error.strerror}): nothing keeps a second run from writing "
            "to it"
        )
        return None
    _held[folder] = descriptor
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    remove_temporary_files(folder)
    return None


def _is_held(path: Path) -> bool:
    """Whether this process has the lock, and the file is still the one that it locked."""
    descriptor = _held.get(path.parent)
    try:
        return descriptor is not None and os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
