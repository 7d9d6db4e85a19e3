"""Finds files that would take far more memory than their size, before anything of them is loaded.

``torch.load`` unpacks compressed archives, and lets a pickle ask for any number of empty bytes.
"""

from __future__ import annotations

import pickletools
import tarfile
import zipfile
from pathlib import Path
from typing import IO

from .integrity import DamagedFileError

_ZIP_MAGIC = b"PK\x03\x04"
# Before the tensors, torch's format of 2019 and earlier has this many pickles.
_LEGACY_PICKLES = 5


def check_memory(path: Path) -> None:
    """Refuses a torch.save file that claims more than it holds.

    torch.save never compresses, so what is in its archive is not larger than the file; and tensors
    have no use for ``bytearray``, with which a pickle of a few bytes takes all memory there is.

    Raises:
        DamagedFileError: it is compressed, its parts overlap, it asks for empty bytes, or it is a
            tar archive, the format of torch 0.1, for which early releases of torch 2 run code.
    """
    with path.open("rb") as file:
        if file.read(4) == _ZIP_MAGIC:
            _check_archive(path)
            return
        if path.suffix == ".pkl":
            # The unpickler of these files knows no such requests.
            return
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            if not _check_pickle(file):
                break
    if _is_tar(path):
        raise DamagedFileError("tar archives, which torch 0.1 wrote, are not read")


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            unpacked = sum(part.file_size for part in parts)
            if unpacked > path.stat().st_size or any(part.compress_type for part in parts):
                raise DamagedFileError(
                    f"its parts unpack to {unpacked} bytes, and torch.save does not compress"
                )
            for part in parts:
                if part.filename.endswith("data.pkl"):
                    with archive.open(part) as file:
                        if not _check_pickle(file):
                            raise DamagedFileError(f"its part {part.filename} is no pickle")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise DamagedFileError(str(error)) from error


def _check_pickle(file: IO[bytes]) -> bool:
    """Looks through one pickle, without loading it; False if it can't be read to its end."""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL" and str(argument).endswith(" bytearray"):
                raise DamagedFileError("it asks for a bytearray, which weights don't need")
    except ValueError:
        return False
    return True


def _is_tar(path: Path) -> bool:
    try:
        tarfile.open(path, "r:").close()
    except (tarfile.TarError, OSError, ValueError):
        return False
    return True
