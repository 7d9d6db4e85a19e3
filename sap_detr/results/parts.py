"""The detections of a job while it runs: one file of lines per process, beside the result.

``results.json.parts/`` holds ``run.json``, which says what is computed, and per shard

* ``3-of-8.jsonl``, a line for each picture that is done, written at once;
* ``3-of-8.done``, once the shard is through: what it left out;
* ``3-of-8.lock``, held while a process writes the other two.

The process that sees all shards done merges them and removes the folder. So nothing is lost where a
process is killed, whenever that is, and a shard that is started again goes on after its last line.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from ..errors import UserError
from ..text import shorten
from .shards import Shard

Record = dict[str, Any]
Records = Callable[[], Iterator[Record]]

logger = logging.getLogger(__name__)


class PartsError(UserError, ValueError):
    """The parts of a result can't be used; the message says why and what to do."""


class Parts(contextlib.ExitStack):
    """The part of one shard, to be used in a ``with`` statement, which locks it.

    Args:
        result: the file that the parts become in the end.
        shard: of this process.
        plan: what is computed, as JSON can hold it; the same in all processes.
        resume: go on with a part that is there.

    Attributes:
        folder: of all parts.
        done: the numbers of the pictures that have a line.
    """

    def __init__(
        self, result: Path, shard: Shard, plan: Mapping[str, Any], resume: bool = False
    ) -> None:
        self.folder = self.folder_of(result)
        self.shard = shard
        self.plan = {**plan, "shards": shard.count}
        self.resume = resume
        self.done: set[int] = set()
        self._file: BinaryIO | None = None
        super().__init__()

    @staticmethod
    def folder_of(result: Path) -> Path:
        """Return the folder of all parts of a result."""
        return result.with_name(f"{result.name}.parts")

    def __enter__(self) -> Parts:
        """Open the part.

        Raises:
            PartsError: it is there and was not to be gone on with, belongs to another job, or
                another process writes it.
            OSError: the folder can't be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opening:
            try:
                opening.enter_context(self._lock(self._path(self.shard.number, "lock")))
            except Timeout as error:
                raise PartsError(
                    f"another process writes shard {self.shard} in {self.folder}: every process "
                    "needs a shard of its own"
                ) from error
            path = self._path(self.shard.number, "jsonl")
            if not self.resume and path.exists() and path.stat().st_size:
                raise PartsError(
                    f"{path} was left by an earlier run: go on from there with --resume, or delete "
                    f"{self.folder}"
                )
            self._agree()
            self._file = opening.enter_context(path.open("a+b"))
            self.done = {number for number, _ in _lines(self._file)}
            # A killed process leaves a torn line at the end.
            self._file.truncate()
            self.enter_context(opening.pop_all())
        return self

    @property
    def is_done(self) -> bool:
        """Whether this shard was gone through before."""
        return self._path(self.shard.number, "done").exists()

    def reopen(self) -> bool:
        """Take back that this shard was gone through, if it left pictures out.

        They may have been repaired since.

        Returns:
            Whether the shard is to be gone through again.
        """
        path = self._path(self.shard.number, "done")
        try:
            # Who merges now has read what this shard left out.
            with self._lock(self.folder / "merge.lock"):
                if not json.loads(path.read_text())["left_out"]:
                    return False
                path.unlink()
        except (Timeout, FileNotFoundError):
            return False
        return True

    def add(self, number: int, record: Record) -> None:
        """Write down what was found in a picture; a killed process does not lose it.

        Args:
            number: of the picture.
            record: as JSON can hold it.
        """
        assert self._file is not None
        self._file.write(json.dumps({"number": number, **record}).encode() + b"\n")
        self._file.flush()
        self.done.add(number)

    def finish(self, left_out: Mapping[str, str]) -> None:
        """Say that this shard was gone through.

        Args:
            left_out: files that could not be used, and why.
        """
        assert self._file is not None
        os.fsync(self._file.fileno())
        said = {"pictures": len(self.done), "left_out": dict(left_out)}
        self._write_whole(self._path(self.shard.number, "done"), said)

    def merge(self, write: Callable[[Records], None]) -> dict[str, str] | None:
        """Turn all parts into the result and remove them, if all shards were gone through.

        Args:
            write: gets a function that goes through all records, in the order of their pictures, as
                often as it is called.

        Returns:
            The files of all shards that could not be used, and why; None if others are not through,
            or another process is merging.

        Raises:
            PartsError: a part is damaged.
        """
        try:
            with self._lock(self.folder / "merge.lock"):
                if not all(self._path(number, "done").exists() for number in self._numbers):
                    return None
                said = [json.loads(self._path(n, "done").read_text()) for n in self._numbers]
                parts = [
                    self._offsets(number, found["pictures"])
                    for number, found in zip(self._numbers, said, strict=True)
                ]
                write(lambda: self._records(parts))
                shutil.rmtree(self.folder)
        except Timeout:
            return None
        return {file: why for found in said for file, why in found["left_out"].items()}

    @property
    def _numbers(self) -> range:
        return range(1, self.shard.count + 1)

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number}-of-{self.shard.count}.{kind}"

    def _agree(self) -> None:
        """Compare what is computed with what the other processes compute.

        Raises:
            PartsError: it is something else.
        """
        path = self.folder / "run.json"
        if not path.exists():
            self._write_whole(path, self.plan)
        theirs = json.loads(path.read_text())
        mine = json.loads(json.dumps(self.plan))
        for key in {**mine, **theirs}:
            if mine.get(key) != theirs.get(key):
                raise PartsError(
                    f"{self.folder} belongs to another job, whose {key} is "
                    f"{shorten(theirs.get(key))}; here it is {shorten(mine.get(key))}. Delete "
                    f"{self.folder}, or name another result"
                )

    def _write_whole(self, path: Path, content: object) -> None:
        """Write JSON so that other processes see all of it or nothing."""
        # Named by the shard, whose lock is held: process ids repeat from machine to machine.
        temporary = self._path(self.shard.number, "tmp")
        temporary.write_text(json.dumps(content))
        temporary.replace(path)

    @contextlib.contextmanager
    def _lock(self, path: Path) -> Iterator[None]:
        lock = FileLock(path, blocking=False, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:  # which is an OSError, too
            raise
        except OSError as error:
            logger.warning(
                f"{path} can't be locked ({error.strerror}): nothing keeps two processes from "
                "writing the same shard"
            )
        try:
            yield
        finally:
            lock.release()

    def _offsets(self, number: int, expected: int) -> tuple[Path, list[tuple[int, int]]]:
        """Return a part and where in it the lines of its pictures begin, in their order."""
        path = self._path(number, "jsonl")
        with path.open("rb") as file:
            found = sorted(_lines(file))
        if len(found) != expected:
            raise PartsError(
                f"{path} has whole lines of {len(found)} pictures, not of {expected}: it was "
                f"damaged. Delete it and {number}-of-{self.shard.count}.done, and run shard "
                f"{number}/{self.shard.count} again with --resume"
            )
        return path, found

    def _records(self, parts: Sequence[tuple[Path, list[tuple[int, int]]]]) -> Iterator[Record]:
        return heapq.merge(*(_read(*part) for part in parts), key=lambda record: record["number"])


def _read(path: Path, places: Sequence[tuple[int, int]]) -> Iterator[Record]:
    with path.open("rb") as file:
        for _, offset in places:
            file.seek(offset)
            record: Record = json.loads(file.readline())
            yield record


def _lines(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Return the number of a picture and where its line begins, up to the first torn line.

    The file is left at the end of the last whole line.
    """
    file.seek(0)
    end = 0
    for line in iter(file.readline, b""):
        try:
            number = int(json.loads(line)["number"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        yield number, end
        end += len(line)
    file.seek(end)
