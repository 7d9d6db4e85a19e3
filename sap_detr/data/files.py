"""Looks at the image files of a data set, many at a time."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from .errors import DatasetError
from .findings import Findings, Kind
from .images import BadImageError, ImageFacts, image_suffixes, inspect_image
from .pixels import FULL_RANGE, PixelRange, depth
from .similar_files import closest, list_files
from .standard_dict import StandardDict, name_image

_FILES_PER_TASK = 256
# Darker by half or more than the brightest image of these bits could be.
_FULL_BITS = 15


def inspect_files(
    dicts: Sequence[StandardDict],
    findings: Findings,
    pool: Executor,
    *,
    image_root: Path | None = None,
    decode: bool = False,
    pixel_range: PixelRange = FULL_RANGE,
    progress: Callable[[int], object] | None = None,
) -> dict[str, ImageFacts]:
    """Check that images exist, can be read, are complete, and have the size of the annotations.

    By default a file's header and its last bytes are read: enough for files that are empty, cut
    off, not images, or of another size.

    Args:
        dicts: Detectron2's standard dicts. File names with a ``://`` are not looked at.
        findings: gets what is wrong.
        pool: does the reading.
        image_root: folder that all images should be in; None if there is not one.
        decode: decode every image as well, which finds any damage but takes long.
        pixel_range: for images of more than 8 bits.
        progress: called with the number of images that are done.

    Returns:
        What was read, by file name, of the images that can be read.

    Raises:
        DatasetError: if a process of the pool dies.
    """
    _inspect_names(dicts, image_root, findings)
    records = [d for d in dicts if "://" not in str(d["file_name"])]
    existing = _existing_records(records, image_root, findings)
    if progress is not None:
        progress(len(dicts) - len(existing))
    chunks = [existing[i : i + _FILES_PER_TASK] for i in range(0, len(existing), _FILES_PER_TASK)]
    named = [[str(record["file_name"]) for record in chunk] for chunk in chunks]
    facts: dict[str, ImageFacts] = {}
    try:
        results = pool.map(partial(_inspect_all, decode=decode, pixel_range=pixel_range), named)
        for chunk, of_chunk in zip(chunks, results, strict=True):
            for record, result in zip(chunk, of_chunk, strict=True):
                if isinstance(result, BadImageError):
                    _add(findings, result.kind, record, result.reason)
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
    _inspect_depths(facts, pixel_range, findings)
    return facts


def _inspect_depths(
    facts: Mapping[str, ImageFacts], pixel_range: PixelRange, findings: Findings
) -> None:
    """Note images of another depth than most, and sets that don't use the bits of their files."""
    by_depth: dict[str, list[str]] = defaultdict(list)
    for name, fact in facts.items():
        by_depth[depth(fact.mode)].append(name)
    (most, _), *others = sorted(by_depth.items(), key=lambda item: -len(item[1])) or [("", [])]
    for other, names in others:
        for name in names:
            findings.add(Kind.MIXED_DEPTHS, repr(name), f"{other}, most have {most}", (name,))
    names = by_depth["16 bits"]
    highest = max((facts[name].highest or 0 for name in names), default=0)
    bits = int(highest).bit_length()
    if pixel_range == FULL_RANGE and 0 < bits < _FULL_BITS:
        what = f"no pixel of the 16-bit images needs more than {bits} bits"
        findings.add(Kind.DARK_PIXELS, "", f"{what}: pixel_range=bits={bits}", count=len(names))


def find_copies(facts: Iterable[tuple[str, ImageFacts]]) -> dict[str, str]:
    """Return what the contents of files that may be copies are known by: equal if they are.

    Whole files are read only where two look alike.

    Args:
        facts: file names, and what was read of these files; a name can occur several times.

    Returns:
        By normalised path; without the files that differ from all others.
    """
    alike: dict[str, set[str]] = defaultdict(set)
    for name, fact in facts:
        alike[fact.fingerprint].add(os.path.normpath(name))
    paths = [path for group in alike.values() if len(group) > 1 for path in group]
    # Names of one file, hard links, are read once.
    by_inode: dict[tuple[int, int], str] = {}
    digests: dict[str, str] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            inode = (status.st_dev, status.st_ino)
            if inode not in by_inode:
                by_inode[inode] = _digest(path)
            digests[path] = by_inode[inode]
    return digests


def _digest(name: str) -> str:
    """Return a hash of a whole file."""
    digest = hashlib.blake2b(digest_size=16)
    with open(name, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _add(findings: Findings, kind: Kind, record: StandardDict, what: str) -> None:
    findings.add(kind, name_image(record), what, (str(record["file_name"]),))


def _inspect_names(
    dicts: Sequence[StandardDict], image_root: Path | None, findings: Findings
) -> None:
    """Note files that several entries name, and that lie elsewhere."""
    root = None if image_root is None else os.path.normpath(image_root) + os.sep
    first_with: dict[str, StandardDict] = {}
    for record in dicts:
        path = os.path.normpath(str(record["file_name"]))
        first = first_with.setdefault(path, record)
        if first is not record:
            what = f"the same file as image {first.get('image_id')!r}"
            _add(findings, Kind.LISTED_TWICE, record, what)
        if root is not None and not path.startswith(root):
            _add(findings, Kind.OUTSIDE_FOLDER, record, "")


def note_unlisted(listed: Iterable[str], image_root: Path, findings: Findings) -> None:
    """Note images of a folder that nothing names.

    Args:
        listed: file names that are named.
        image_root: the folder.
        findings: gets them.
    """
    root = os.path.normpath(image_root) + os.sep
    known = set(map(os.path.normpath, listed))
    try:
        with os.scandir(root) as entries:
            suffixes = image_suffixes()
            images = [e.name for e in entries if os.path.splitext(e.name)[1].lower() in suffixes]
    except OSError:
        return  # a folder that can't be listed is noted where its images are looked for
    for name in sorted(images):
        if root + name not in known:
            findings.add(Kind.NOT_LISTED, repr(name), "", (root + name,))


def _existing_records(
    records: Sequence[StandardDict], image_root: Path | None, findings: Findings
) -> list[StandardDict]:
    """Return the records whose files exist.

    Every folder is listed once: asking for each file is slow on network disks.
    """
    listed = functools.cache(list_files)

    def hint(record: StandardDict, folder: str) -> str:
        root = os.fspath(image_root or folder)
        found = closest(os.path.relpath(str(record["file_name"]), root), listed(root))
        return "" if found is None else f"; probably meant: {os.path.join(root, found)!r}"

    by_folder: dict[str, list[StandardDict]] = defaultdict(list)
    for record in records:
        by_folder[os.path.dirname(record["file_name"]) or os.curdir].append(record)
    existing: list[StandardDict] = []
    for folder, members in by_folder.items():
        try:
            with os.scandir(folder) as entries:
                # To open what is no file, such as a named pipe, may take for ever.
                names = {entry.name: entry.is_file() for entry in entries}
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            what = f"the folder can't be listed ({reason}); {len(members)} images should be in it"
            what += hint(members[0], folder)
            # repr: a name may have characters that can't be printed.
            findings.add(Kind.MISSING_FOLDER, repr(folder), what)
            continue
        for record in members:
            name = os.path.basename(record["file_name"])
            if names.get(name):
                existing.append(record)
            elif name in names:
                _add(findings, Kind.MISSING_FILE, record, "is not a file")
            else:
                what = f"there is no such file{hint(record, folder)}"
                _add(findings, Kind.MISSING_FILE, record, what)
    return existing


def _inspect_all(
    file_names: Sequence[str], decode: bool, pixel_range: PixelRange
) -> list[ImageFacts | BadImageError]:
    results: list[ImageFacts | BadImageError] = []
    for name in file_names:
        try:
            results.append(inspect_image(name, decode, pixel_range))
        except BadImageError as error:
            # Its cause may hold what can't be sent to another process.
            results.append(error.with_traceback(None))
            error.__cause__ = error.__context__ = None
    return results


def _compare_sizes(record: StandardDict, facts: ImageFacts, findings: Findings) -> None:
    actual, stored = facts.upright_size, (facts.width, facts.height)
    if facts.orientation != 1:
        _add(findings, Kind.TURNED, record, f"EXIF orientation {facts.orientation}")
    declared = (record.get("width", actual[0]), record.get("height", actual[1]))
    # No size was given that could be right; that is noted elsewhere.
    if declared in (actual, (0, 0)):
        return
    what = (
        f"the image is {actual[0]}x{actual[1]} (width x height), "
        f"the annotations say {declared[0]}x{declared[1]}"
    )
    if stored == declared:
        turn = f"EXIF orientation {facts.orientation} turns it, and Detectron2 reads images turned"
        _add(findings, Kind.ANNOTATED_UNTURNED, record, f"{what}; {turn}")
    else:
        _add(findings, Kind.WRONG_SIZE, record, what)
