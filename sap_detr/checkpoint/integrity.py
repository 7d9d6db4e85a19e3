"""Checksums that travel inside checkpoint files, so that file and checksum can't get out of step.

``torch.load`` does not compare the checksums of the zip archive that it reads: a flipped bit in a
tensor goes unnoticed. So a file of ours ends with the SHA-256 digest of everything before it. It is
the comment of the archive, which every reader of zip files passes over: plain ``torch.load``,
Detectron2 and ``unzip`` read a sealed file as they would any other.

In a safetensors file the digest is a field of the header's metadata, computed with zeros in its
place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

SEAL_MARK = b"sha256:"
_DIGEST_SIZE = 64
_SEAL_SIZE = len(SEAL_MARK) + _DIGEST_SIZE

# The last record of a zip archive: 22 bytes, the last two of which are the length of the comment.
_END_RECORD_MAGIC = b"PK\x05\x06"
_END_RECORD_SIZE = 22

# Two fields, as one flipped bit may make one of them unrecognisable.
SAFETENSORS_FIELDS = {"checksum": "sha256", "sha256": "0" * _DIGEST_SIZE}
_SAFETENSORS_MARKS = (b'"checksum":"sha256"', b'"sha256":"')

_CHUNK = 4 * 2**20


class DamagedFileError(Exception):
    """A file is not what was once written; the message is the reason."""


class SealedFile:
    """A file for `torch.save` to write to, which seals it.

    The digest is that of the bytes handed over, not of those that arrived on the disk. An error of
    the disk is kept until the end: raised at once it would pass through torch's writer, which turns
    it into another one.

    Args:
        path: file to create.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._held_back = b""
        self._error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Takes bytes; the last ones are held back, as sealing changes them."""
        size = memoryview(data).nbytes
        if self._error is None:
            try:
                if size >= _END_RECORD_SIZE:
                    self._put(self._held_back)
                    self._put(memoryview(data)[: size - _END_RECORD_SIZE])
                    self._held_back = bytes(data[size - _END_RECORD_SIZE :])
                else:
                    held = self._held_back + bytes(data)
                    self._put(held[:-_END_RECORD_SIZE])
                    self._held_back = held[-_END_RECORD_SIZE:]
            except BaseException as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Part of what `torch.save` expects of a file; nothing is gained by doing it early."""

    def close(self) -> None:
        """Writes the seal and closes the file.

        Raises:
            OSError: the disk is full, or another error of this or an earlier write.
        """
        try:
            if self._error is not None:
                raise self._error
            self._put(sealed_end_record(self._held_back))
            self._file.write(self._digest.hexdigest().encode())
            self._file.flush()
        finally:
            with contextlib.suppress(OSError):
                self._file.close()

    def __enter__(self) -> SealedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or self._error is not None:
            self.close()
        else:
            with contextlib.suppress(OSError):
                self._file.close()

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)


def sealed_end_record(record: bytes) -> bytes:
    """The end record of a zip archive without comment, and the beginning of the seal after it."""
    if record[:4] != _END_RECORD_MAGIC or record[-2:] != b"\0\0":
        raise ValueError("the file does not end like a zip archive without comment")
    return record[:-2] + struct.pack("<H", _SEAL_SIZE) + SEAL_MARK


def read_seal(path: Path) -> str | None:
    """The digest that a zip archive was sealed with, without comparing it; None if it was not."""
    with path.open("rb") as file:
        tail = _tail(file, _SEAL_SIZE)
    sealed = tail.startswith(SEAL_MARK)
    return tail[len(SEAL_MARK) :].decode("ascii", "replace") if sealed else None


def verify_seal(path: Path) -> bool:
    """Compares a file with its seal.

    Returns:
        Whether it has one.

    Raises:
        DamagedFileError: they differ.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            return _verify_safetensors(file)
        tail = _tail(file, _SEAL_SIZE)
        if not tail.startswith(SEAL_MARK):
            return False
        size = os.fstat(file.fileno()).st_size - _DIGEST_SIZE
        file.seek(0)
        digest = hashlib.sha256()
        while size > 0 and (chunk := file.read(min(_CHUNK, size))):
            digest.update(chunk)
            size -= len(chunk)
    _compare(digest.hexdigest(), tail[len(SEAL_MARK) :])
    return True


def verify_parts(path: Path) -> None:
    """Compares a file without seal with the checksums of its parts, if it is a zip archive.

    Raises:
        DamagedFileError: they differ, or the file was sealed once and is cut.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
        end = _tail(file, _END_RECORD_SIZE)
    if not (end.startswith(_END_RECORD_MAGIC) and end.endswith(b"\0\0")):
        raise DamagedFileError("the end of the archive is missing or changed")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise DamagedFileError(str(error)) from error
    if damaged is not None:
        raise DamagedFileError(f"the checksum of its part {damaged} is wrong")


def _compare(found: str, recorded: bytes) -> None:
    if found.encode() != recorded:
        raise DamagedFileError("its SHA-256 checksum is another one than when it was written")


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(os.fstat(file.fileno()).st_size - size, 0))
    return file.read(size)


def sealed_safetensors(content: bytes) -> bytearray:
    """Puts the digest into a serialised file whose metadata has `SAFETENSORS_FIELDS`."""
    sealed = bytearray(content)
    place = _digest_place(sealed[: _header_size(sealed)])
    if place is None:
        raise ValueError("the header has no place for a checksum")
    sealed[place : place + _DIGEST_SIZE] = hashlib.sha256(sealed).hexdigest().encode()
    return sealed


def _verify_safetensors(file: BinaryIO) -> bool:
    start = file.read(8)
    header = bytearray(start + file.read(min(_header_size(start), 100 * 2**20) - len(start)))
    if not any(mark in header for mark in _SAFETENSORS_MARKS):
        return False
    place = _digest_place(header)
    if place is None:
        raise DamagedFileError("its checksum can't be found in its header")
    recorded = bytes(header[place : place + _DIGEST_SIZE])
    header[place : place + _DIGEST_SIZE] = b"0" * _DIGEST_SIZE
    digest = hashlib.sha256(header)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    _compare(digest.hexdigest(), recorded)
    return True


def _header_size(content: bytes | bytearray) -> int:
    """Bytes of a safetensors file before its tensors."""
    return 8 + int.from_bytes(content[:8], "little")


def _digest_place(header: bytes | bytearray) -> int | None:
    found = header.find(_SAFETENSORS_MARKS[1])
    place = found + len(_SAFETENSORS_MARKS[1])
    return None if found < 0 or place + _DIGEST_SIZE > len(header) else place
