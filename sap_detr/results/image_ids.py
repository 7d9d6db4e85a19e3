"""Under which ids pictures and classes stand in results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..data.annotation_file import as_integer, read_json
from ..data.errors import DatasetError
from ..text import listing


@dataclass(frozen=True)
class Picture:
    """A picture of a job.

    Attributes:
        number: its place in the list of all, from 0.
        file: its path.
        id: under which it stands in results.
    """

    number: int
    file: Path
    id: int


def numbered_pictures(files: Sequence[Path]) -> list[Picture]:
    """Give ids from 1 on, in order."""
    return [Picture(number, file, number + 1) for number, file in enumerate(files)]


@dataclass(frozen=True)
class KnownIds:
    """The ids of a COCO annotation file.

    Attributes:
        source: the file.
        images: ids by ``file_name``.
        categories: ids by name.
    """

    source: str
    images: Mapping[str, int]
    categories: Mapping[str, int]

    @classmethod
    def read(cls, annotations: str | os.PathLike[str]) -> KnownIds:
        """Read a file.

        Raises:
            DatasetError: it is no COCO annotation file, or gives two ids to one name.
            FileNotFoundError: there is no such file.
        """
        content = read_json(annotations)
        images = _ids(content, "images", "file_name", annotations)
        categories = _ids(content, "categories", "name", annotations)
        return cls(os.fspath(annotations), images, categories)

    def pictures(self, files: Sequence[Path]) -> tuple[list[Picture], list[Path]]:
        """Find pictures by the longest end of their path that is a ``file_name``.

        Of ``data/val/7.jpg`` that is looked for first, then ``val/7.jpg``, then ``7.jpg``.

        Returns:
            The pictures, and the files that have no id.

        Raises:
            DatasetError: two pictures have the same id.
        """
        pictures: list[Picture] = []
        unknown: list[Path] = []
        seen: dict[int, Path] = {}
        for number, file in enumerate(files):
            parts = file.parts
            ends = (PurePath(*parts[start:]).as_posix() for start in range(len(parts)))
            image_id = next((self.images[end] for end in ends if end in self.images), None)
            if image_id is None:
                unknown.append(file)
                continue
            if image_id in seen:
                raise DatasetError(
                    f"{seen[image_id]} and {file} are both image {image_id} of {self.source}: "
                    "leave one out"
                )
            seen[image_id] = file
            pictures.append(Picture(number, file, image_id))
        return pictures, unknown

    def of_classes(
        self, class_names: Sequence[str | None] | None, wanted: Sequence[int] | None = None
    ) -> list[int]:
        """Find categories by the names of a model's classes.

        Args:
            class_names: by class number.
            wanted: numbers of those that are looked for; None for all.

        Returns:
            By class number; -1 for those that are not looked for, or that have no name, as the
            unused ids of published models.

        Raises:
            DatasetError: the classes have no names, or one that is looked for has no category.
        """
        if class_names is None:
            raise DatasetError(
                f"{self.source} names its categories, and the model's classes have no names: "
                "without it, category ids are the numbers of the classes"
            )
        numbers = range(len(class_names)) if wanted is None else wanted
        names = {number: class_names[number] for number in numbers}
        absent = [name for name in names.values() if name and name not in self.categories]
        if absent:
            raise DatasetError(
                f"{self.source} has no category {listing(absent, 5)}, which the model detects; it "
                f"has {listing(self.categories, 5)}. --classes limits what is looked for"
            )
        return [
            self.categories[name] if (name := names.get(number)) else -1
            for number in range(len(class_names))
        ]


def _ids(
    content: Any, key: str, name_key: str, annotations: str | os.PathLike[str]
) -> dict[str, int]:
    """Return the ids of a list of an annotation file by its names."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DatasetError(f"{annotations} has no list {key!r}, as COCO annotations have")
    found: dict[str, int] = {}
    for index, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        name, number = entry.get(name_key), as_integer(entry.get("id"))
        if not isinstance(name, str) or number is None:
            raise DatasetError(f"{annotations}: {key}[{index}] lacks {name_key} or a whole id")
        if name_key == "file_name":
            name = PurePath(name.replace("\\", "/")).as_posix()
        if found.setdefault(name, number) != number:
            raise DatasetError(
                f"{annotations}: {key} {found[name]} and {number} have the same {name_key}, "
                f"{name!r}: which one results belong to can't be told, so give one another"
            )
    return found
