"""Finds out which file a name that leads nowhere probably stands for."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

# Files of a folder that are looked at.
_MAX_FILES = 1_000_000

Parts = tuple[str, ...]
# Paths below a folder by the name of the file, and by that without its ending.
Listing = tuple[dict[str, list[str]], dict[str, list[str]]]


def list_files(folder: str) -> Listing:
    """List the files of a folder and its sub-folders by what tools do not change about names.

    They do change separators, percent-encoding, Unicode's normal form, letter case, folders, and
    the ending.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in itertools.islice(_walk(folder), _MAX_FILES):
        name = _parts(path)[-1]
        by_name[name].append(path)
        by_stem[Path(name).stem].append(path)
    return by_name, by_stem


def closest(name: str, files: Listing) -> str | None:
    """Return the path, below the folder, that a name was probably meant for; None if unknown.

    Args:
        name: of a file, with or without folders.
        files: of the folder.
    """
    parts = _parts(name)
    by_name, by_stem = files
    found = by_name.get(parts[-1]) or by_stem.get(Path(parts[-1]).stem) or []
    return max(found, key=lambda path: _common_end(parts, _parts(path)), default=None)


def _walk(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), root)


def _parts(name: str) -> Parts:
    plain = unicodedata.normalize("NFC", unquote(name)).replace("\\", "/").casefold()
    return tuple(plain.strip().rstrip("/").split("/"))


def _common_end(first: Parts, second: Parts) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
