"""Looks at the image files of a data set, many at a time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from .errors import BadImageError, DatasetError
from .findings import Example, Findings
from .images import ImageFacts, inspect_image

Json = dict[str, Any]

WRONG_SIZE = "images of another size than the annotations say"
TURNED = "images annotated as they are stored, though EXIF turns them"
MISSING = "missing image files"

_FILES_PER_TASK = 256
_COPY = "check the folder of the images in the config, and that all images were copied"


def scan_image_files(
    dicts: Sequence[Json],
    findings: Findings,
    pool: Executor,
    *,
    decode: bool = False,
    progress: Callable[[int], object] | None = None,
) -> dict[str, ImageFacts]:
    """Check that images exist, can be read, are complete, and have the size of the annotations.

    Args:
        dicts: Detectron2's standard dicts. File names with a ``://`` are not looked at.
        findings: gets what is wrong.
        pool: does the reading.
        decode: decode every image as well, which finds any damage but takes long.
        progress: called with the number of images that are done.

    Returns:
        What was read, by file name, of the images that can be read.

    Raises:
        DatasetError: if a process of the pool dies.
    """
    records = [d for d in dicts if "://" not in str(d["file_name"])]
    existing = _existing_records(records, findings)
    if progress is not None:
        progress(len(dicts) - len(existing))
    chunks = [existing[i : i + _FILES_PER_TASK] for i in range(0, len(existing), _FILES_PER_TASK)]
    named = [[str(record["file_name"]) for record in chunk] for chunk in chunks]
    facts: dict[str, ImageFacts] = {}
    try:
        for chunk, results in zip(
            chunks, pool.map(partial(_inspect_all, decode=decode), named), strict=True
        ):
            for record, result in zip(chunk, results, strict=True):
                if isinstance(result, BadImageError):
                    _add(findings, record, result.kind, result.reason, result.remedy)
                else:
                    facts[str(record["file_name"])] = result
                    _compare_sizes(record, result, findings)
            if progress is not None:
                progress(len(chunk))
    except BrokenProcessPool as error:
        raise DatasetError(
            f"{findings.source}: a process that reads images died: out of memory, or a file that "
            "crashes the decoder. Try fewer processes."
        ) from error
    return facts


def name_image(record: Json) -> str:
    """What to call an image in messages."""
    return f"image {record.get('image_id')!r} ({str(record['file_name'])!r})"


def _inspect_all(file_names: Sequence[str], decode: bool) -> list[ImageFacts | BadImageError]:
    results: list[ImageFacts | BadImageError] = []
    for name in file_names:
        try:
            results.append(inspect_image(name, decode))
        except BadImageError as error:
            # Its cause may hold what can't be sent to another process.
            results.append(error.with_traceback(None))
            error.__cause__ = error.__context__ = None
    return results


def _compare_sizes(record: Json, facts: ImageFacts, findings: Findings) -> None:
    actual, stored = facts.upright_size, (facts.width, facts.height)
    declared = (record.get("width", actual[0]), record.get("height", actual[1]))
    # No size was given that could be right; that is noted elsewhere.
    if declared in (actual, (0, 0)):
        return
    what = (
        f"the image is {actual[0]}x{actual[1]} (width x height), "
        f"the annotations say {declared[0]}x{declared[1]}"
    )
    if stored == declared:
        what += (
            f"; EXIF orientation {facts.orientation} turns it, and Detectron2 reads images turned"
        )
        remedy = "store these images upright without EXIF orientation, or annotate them turned"
        _add(findings, record, TURNED, what, remedy)
        return
    remedy = "correct height and width, or use the images that were annotated"
    _add(findings, record, WRONG_SIZE, what, remedy)


def _add(findings: Findings, record: Json, kind: str, what: str, remedy: str) -> None:
    example = Example(name_image(record), what, (str(record["file_name"]),))
    findings.add(kind, example, remedy=remedy)


def _existing_records(records: Sequence[Json], findings: Findings) -> list[Json]:
    """The records whose files exist.

    Every folder is listed once: asking for each file is slow on network disks.
    """
    by_folder: dict[str, list[Json]] = defaultdict(list)
    for record in records:
        by_folder[str(Path(record["file_name"]).parent)].append(record)
    existing: list[Json] = []
    for folder, members in by_folder.items():
        try:
            with os.scandir(folder) as entries:
                # To open what is no file, such as a named pipe, may take for ever.
                names = {entry.name: entry.is_file() for entry in entries}
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            what = f"the folder can't be listed ({reason}); {len(members)} images should be in it"
            # repr: a name may have characters that can't be printed.
            findings.add("missing image folders", Example(repr(folder), what), remedy=_COPY)
            continue
        missing: list[Json] = []
        for record in members:
            is_file = names.get(Path(record["file_name"]).name)
            if is_file is None:
                missing.append(record)
            elif is_file:
                existing.append(record)
            else:
                _add(findings, record, MISSING, "is not a file", _COPY)
        lower = {name.lower(): name for name in names} if missing else {}
        for record in missing:
            similar = lower.get(Path(record["file_name"]).name.lower())
            hint = f", but there is {similar!r}" if similar else ""
            _add(findings, record, MISSING, f"there is no such file{hint}", _COPY)
    return existing
