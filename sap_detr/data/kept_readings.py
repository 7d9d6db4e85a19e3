"""What was read of data sets in COCO's format, kept for the next start: annotations and findings.

It is used again as long as the files have the same sizes and times. Only data sets without errors
are kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .cache import keep, kept
from .coco_schema import CocoAnnotations, CocoFile
from .findings import Example, Finding, Findings, Kind
from .images import LIMIT_VARIABLE
from .record_arrays import RecordArrays
from .records import SplitFiles


def stamp(path: Path) -> tuple[int, int]:
    """Return size and time of a file, or of a folder; (-1, -1) if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


class KeptAnnotations:
    """What one way of reading a split gives.

    Args:
        files: the split.
        training, categories: as of :func:`~sap_detr.data.coco_schema.read_split`.
    """

    def __init__(
        self, files: SplitFiles, training: bool, categories: Mapping[int, str] | None
    ) -> None:
        self._usable = isinstance(files, CocoFile)
        given = None if categories is None else list(categories.items())
        self._subject = ["annotations", str(files.path), str(files.image_root), training, given]

    def load(self, state: tuple[int, int]) -> CocoAnnotations | None:
        """Return what was read of the file in this state; None if it has to be read."""
        found = kept(self._subject, self._key(state)) if self._usable else None
        if found is None:
            return None
        content, arrays = found
        file = content["evaluation_file"]
        if file is not None and not Path(file).is_file():
            return None
        return CocoAnnotations(
            content["json_file"],
            dict(content["categories"]),
            RecordArrays(**arrays),
            _findings(content["findings"]),
            evaluation_file=file,
        )

    def save(self, state: tuple[int, int], read: CocoAnnotations) -> None:
        """Keep what was read, unless there are errors, or more to do than to read it again."""
        if not self._usable or read.for_evaluation is not None or read.findings.of("error"):
            return
        content = {
            "json_file": read.json_file,
            "categories": list(read.categories.items()),
            "findings": _as_json(read.findings),
            "evaluation_file": read.evaluation_file,
        }
        arrays = {f.name: getattr(read.records, f.name) for f in dataclasses.fields(RecordArrays)}
        keep(self._subject, self._key(state), content, arrays)

    def _key(self, state: tuple[int, int]) -> list[Any]:
        return [state, os.environ.get(LIMIT_VARIABLE)]


class KeptInspection:
    """What an inspection found.

    Args:
        splits: the files, and the file names of the images.
        settings: what it depends on besides, as json.
    """

    def __init__(
        self, splits: Sequence[tuple[CocoFile, Iterable[str]]], settings: Sequence[Any]
    ) -> None:
        paths = [str(files.path) for files, _ in splits]
        self._subject = ["inspection", *paths]
        folders = {str(files.image_root) for files, _ in splits}
        for _, names in splits:
            folders.update({os.path.dirname(name) or os.curdir for name in names})
        states = [(folder, _state(folder)) for folder in sorted(folders)]
        stamps = [stamp(files.path) for files, _ in splits]
        self._key = [stamps, states, os.environ.get(LIMIT_VARIABLE), *settings]

    def load(self) -> list[Findings] | None:
        """Return what was found; None if it has to be looked for."""
        found = kept(self._subject, self._key)
        return None if found is None else [_findings(content) for content in found[0]]

    def save(self, found: Sequence[Findings]) -> None:
        """Keep what was found, unless there are errors."""
        if not any(findings.of("error") for findings in found):
            keep(self._subject, self._key, [_as_json(findings) for findings in found], {})


def _state(folder: str) -> str:
    """Return what a folder and its files are known by: names, sizes and times.

    Of a folder that can't be listed nothing is known; where images should be in it, that is an
    error, with which nothing is kept.
    """
    digest = hashlib.sha256()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                status = entry.stat()
                state = (entry.name, status.st_mode, status.st_size, status.st_mtime_ns)
            except OSError:
                state = (entry.name, 0, 0, 0)
            digest.update(repr(state).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _as_json(findings: Findings) -> list[Any]:
    found = [
        [f.kind.name, f.count, [dataclasses.astuple(example) for example in f.examples]]
        for f in findings.of()
    ]
    return [findings.source, found]


def _findings(content: list[Any]) -> Findings:
    source, found = content
    return Findings(source, [Finding(Kind[k], n, list(map(_example, e))) for k, n, e in found])


def _example(content: list[Any]) -> Example:
    where, what, file_names, boxes = content
    return Example(where, what, tuple(file_names), tuple(map(tuple, boxes)))
