"""The folder for what is made of data sets, and files in it that are whole or not there."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
from numpy.typing import NDArray

from .. import __version__

logger = logging.getLogger(__name__)

# Set to 0, nothing is kept for the next start, and nothing that was kept is used.
VARIABLE = "SAP_DETR_KEEP_READINGS"

Arrays = dict[str, NDArray[Any]]


def cache_folder() -> Path:
    """Return ``$SAP_DETR_CACHE`` or the user's cache folder; a temporary one if it is read-only."""
    return _lasting_folder() or Path(tempfile.mkdtemp(prefix="sap_detr_"))


def _lasting_folder() -> Path | None:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("SAP_DETR_CACHE") or base / "sap_detr")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


def write_whole(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file of which others see nothing or all.

    Several processes may write it at once: the last rename wins, with the same content.

    Raises:
        OSError: if that is not possible; nothing is left then.
    """
    descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def keep(subject: Any, key: Any, content: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep what was made of data for the next start, if that is possible.

    Args:
        subject: what it was made of, as json; what was kept of the same subject is replaced.
        key: what shows that this is unchanged, as json.
        content: what was made of it, as json.
        arrays: the rest of it.
    """
    folder = _lasting_folder()
    if os.environ.get(VARIABLE) == "0" or folder is None:
        return
    text = json.dumps({"key": _text(key), "content": content}).encode()
    stored: dict[str, Any] = {**arrays, "json": np.frombuffer(text, np.uint8)}
    target = folder / _name(subject)
    try:
        # A zip archive: it has checksums, and nothing in it can be executed.
        write_whole(target, lambda file: np.savez(file, **stored))
    except OSError as error:
        logger.info("%s can't be written (%s): the next start reads the data again", target, error)


def kept(subject: Any, key: Any) -> tuple[Any, Arrays] | None:
    """Return content and arrays that ``keep`` got; None if there is nothing for this key."""
    folder = _lasting_folder()
    if os.environ.get(VARIABLE) == "0" or folder is None:
        return None
    path = folder / _name(subject)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found = json.loads(arrays.pop("json").tobytes())
        return (found["content"], arrays) if found["key"] == _text(key) else None
    except FileNotFoundError:
        return None
    except Exception as error:  # damage can make zipfile and numpy fail with nearly any exception
        logger.info("%s is damaged (%s): the data is read again", path, error)
        return None


def _name(subject: Any) -> str:
    return f"readings_{hashlib.sha256(_text(subject).encode()).hexdigest()[:24]}.npz"


def _text(value: Any) -> str:
    """Return json that differs if the value, or what reads data, does."""
    return json.dumps([_programs(), value], sort_keys=True)


@functools.cache
def _programs() -> str:
    """Return what the programs that read data are known by."""
    digest = hashlib.sha256(f"{__version__} {PIL.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()
