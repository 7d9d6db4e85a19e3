"""Finds out which file a name that leads nowhere probably stands for."""

from __future__ import annotations

import functools
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


class SimilarFiles:
    """The files of a folder and its sub-folders, by what tools change about names.

    These are separators, percent-encoding, Unicode's normal form, letter case, folders, and the
    ending.

    Args:
        folder: what lies there is listed when it is first asked for.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)

    def closest(self, name: str) -> str | None:
        """Return the path, below the folder, that a name was probably meant for; None if unknown.

        Args:
            name: of a file, with or without folders.
        """
        parts = _parts(name)
        by_name, by_stem = self._files
        found = by_name.get(parts[-1]) or by_stem.get(Path(parts[-1]).stem) or []
        return max(found, key=lambda path: _common_end(parts, _parts(path)), default=None)

    @functools.cached_property
    def _files(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return paths below the folder by their names, and by these without ending."""
        by_name: dict[str, list[str]] = defaultdict(list)
        by_stem: dict[str, list[str]] = defaultdict(list)
        for path in itertools.islice(self._walk(), _MAX_FILES):
            name = _parts(path)[-1]
            by_name[name].append(path)
            by_stem[Path(name).stem].append(path)
        return by_name, by_stem

    def _walk(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.folder):
            folders.sort()
            for name in sorted(names):
                yield os.path.relpath(os.path.join(folder, name), self.folder)


def _parts(name: str) -> Parts:
    plain = unicodedata.normalize("NFC", unquote(name)).replace("\\", "/").casefold()
    return tuple(plain.strip().rstrip("/").split("/"))


def _common_end(first: Parts, second: Parts) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
