"""A lock that keeps two runs from writing to the same folder.

The lock itself is filelock's. What a run needs beside it: who holds the lock stands in the file,
all processes fail together, a folder that was made anew is locked anew, and file systems without
locks can be used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from functools import partial
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from .processes import by_one_process
from .safe_load import CheckpointError
from .safe_save import remove_temporary_files

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"

# The locks that this process holds, with the files that it locked.
_held: dict[Path, tuple[BaseFileLock, os.stat_result]] = {}


def lock_run_folder(folder: str | os.PathLike[str]) -> None:
    """Take a folder for this run, until `release_run_folder` or the end of the process.

    The main process of a run holds the lock; all processes must call this. The operating system
    gives it back when the process ends, however that happens. What a killed run left half written
    is removed. A process that has the lock already keeps it. On file systems without locks a
    warning is all that happens.

    Raises:
        CheckpointError: in all processes, if another run has the folder, or it can't be written to.
    """
    by_one_process(partial(_lock, Path(folder)))


def release_run_folder(folder: str | os.PathLike[str]) -> None:
    """Give a folder back, if this process has it."""
    lock, _ = _held.pop(Path(folder).resolve(), (None, None))
    if lock is not None:
        lock.release()


def _lock(folder: Path) -> None:
    path = folder.resolve() / LOCK_NAME
    if _is_held(path):
        return
    release_run_folder(folder)
    # filelock's own way out on file systems without locks would outlive a killed run.
    lock = FileLock(path, blocking=False, fallback_to_soft=False, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise CheckpointError(
            f"train.output_dir={folder} can't be written to: {error.strerror}"
        ) from error
    try:
        lock.acquire()
    except Timeout as error:
        owner = ""
        with contextlib.suppress(OSError):  # Windows reads no locked file
            owner = path.read_text(errors="replace")[:200].strip()
        raise CheckpointError(
            f"another run writes to {folder} ({owner or 'unknown process'}). Wait for it, end it, "
            "or set another train.output_dir"
        ) from error
    except OSError as error:
        logger.warning(
            f"{folder} can't be locked ({error.strerror}): nothing keeps a second run from writing "
            "to it"
        )
        return
    _held[path.parent] = lock, path.stat()
    with contextlib.suppress(OSError):  # a full disk
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    remove_temporary_files(path.parent)


def _is_held(path: Path) -> bool:
    """Whether this process has the lock, and the file is still the one that it locked."""
    lock, locked = _held.get(path.parent, (None, None))
    if lock is None or locked is None or not path.exists():
        return False
    # A process that was forked has not inherited the lock.
    return lock.is_locked and os.path.samestat(locked, path.stat())
