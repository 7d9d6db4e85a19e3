"""What tells a damaged or hostile file before anything of it is loaded.

``torch.load`` does not compare the checksums of the zip archive that it reads, unpacks compressed
archives, and lets a pickle ask for any number of empty bytes. Safetensors files have no checksums.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch

_ZIP_MAGIC = b"PK\x03\x04"
# The last record of a zip archive: 22 bytes, the last two of which are the length of a comment.
# Earlier versions of this code wrote one.
_END_RECORD_MAGIC = b"PK\x05\x06"
_END_RECORD_SIZE = 22
# The mark of folders in the attributes of a part; torch reads nothing of a part that has it.
_FOLDER_ATTRIBUTE = 0x10
# Before the tensors, torch's format of 2019 and earlier has this many pickles.
_LEGACY_PICKLES = 5


class DamagedFileError(Exception):
    """A file is not what was once written; the message is the reason."""


def check_torch_file(path: Path) -> None:
    """Refuse a torch.save file that is damaged or claims more than it holds.

    torch.save never compresses, so what is in its archive is not larger than the file; and tensors
    have no use for ``bytearray``, with which a pickle of a few bytes takes all memory there is.

    Raises:
        DamagedFileError: a checksum is wrong, it is cut, compressed, its parts overlap, it asks for
            empty bytes, or it is a tar archive, the format of torch 0.1, for which early releases
            of torch 2 run code.
        Exception: of nearly any kind, if it is damaged otherwise.
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
    if tarfile.is_tarfile(path):
        raise DamagedFileError("tar archives, which torch 0.1 wrote, are not read")


def _check_archive(path: Path) -> None:
    with path.open("rb") as opened, zipfile.ZipFile(opened) as archive:
        comment = archive.comment
        opened.seek(-_END_RECORD_SIZE - len(comment), os.SEEK_END)
        record = opened.read(_END_RECORD_SIZE)
        if not record.startswith(_END_RECORD_MAGIC) or record[-2:] != struct.pack(
            "<H", len(comment)
        ):
            raise DamagedFileError("the end of the archive is changed, or there is more behind it")
        parts = archive.infolist()
        unpacked = sum(part.file_size for part in parts)
        if unpacked > path.stat().st_size or any(part.compress_type for part in parts):
            raise DamagedFileError(
                f"its parts unpack to {unpacked} bytes, and torch.save does not compress"
            )
        damaged = archive.testzip()
        if damaged is not None:
            raise DamagedFileError(f"the checksum of its part {damaged} is wrong")
        for part in parts:
            if part.external_attr & _FOLDER_ATTRIBUTE:
                raise DamagedFileError(f"its part {part.filename} is marked as a folder")
            if part.filename.endswith("data.pkl"):
                with archive.open(part) as file:
                    if not _check_pickle(file):
                        raise DamagedFileError(f"its part {part.filename} is no pickle")


def _check_pickle(file: IO[bytes]) -> bool:
    """Look through one pickle, without loading it; False if it can't be read to its end."""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL" and str(argument).endswith(" bytearray"):
                raise DamagedFileError("it asks for a bytearray, which weights don't need")
    except ValueError:
        return False
    return True


def fingerprint(path: Path) -> int:
    """Return a number that tells files apart: from the checksums in an archive, else the size."""
    if not zipfile.is_zipfile(path):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return zlib.crc32(repr([(part.filename, part.CRC) for part in archive.infolist()]).encode())


def tensor_checksum(
    tensors: Mapping[str, torch.Tensor], class_names: object, description: str = ""
) -> str:
    """Return the SHA-256 digest of tensors with their names, shapes and dtypes, and of the rest.

    Args:
        tensors: on the CPU.
        class_names: list of names, or None.
        description: of the model, as JSON; empty if there is none.
    """
    digest = hashlib.sha256((repr(class_names) + description).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
