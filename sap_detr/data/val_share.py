"""Splits images that have no validation split, by what is in their files."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DatasetError
from .findings import Findings
from .images import fingerprint
from .records import Records, SplitFiles

_NUM_THREADS = 16


@dataclass(frozen=True)
class Part:
    """What is trained on, or evaluated, of a split that is divided.

    It depends on the contents of the image files and on the classes of their objects alone: not on
    names, order or a seed. Files with the same content are in the same part.

    Args:
        whole: what is divided.
        share: of the images, to evaluate with.
        evaluated: whether it is that, or the rest.

    Raises:
        DatasetError: if the share is not between 0 and 1.
    """

    whole: SplitFiles
    share: float
    evaluated: bool

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise DatasetError(f"dataset.val_share={self.share}: a number between 0 and 1 expected")

    @property
    def format(self) -> str:
        """Return the format, and how much of it this is."""
        share = self.share if self.evaluated else 1 - self.share
        return f"{self.whole.format}, {share:.0%} of its images"

    @property
    def path(self) -> Path:
        """Return that of the whole."""
        return self.whole.path

    @property
    def image_root(self) -> Path:
        """Return that of the whole."""
        return self.whole.image_root

    def records(self) -> Records:
        """Read the whole, and return what belongs to this part.

        What the reader finds wrong, and annotations of unknown images, belong to what is trained
        on.

        Raises:
            FileNotFoundError, DatasetError: as those of the whole.
        """
        records = self.whole.records()
        content = records.content
        try:
            classes: dict[Any, set[Any]] = {image["id"]: set() for image in content["images"]}
            for annotation in content["annotations"]:
                classes.get(annotation["image_id"], set()).add(annotation["category_id"])
            files = {i["id"]: self.image_root / i["file_name"] for i in content["images"]}
        except (TypeError, LookupError):
            return records  # the checks tell what is wrong with it
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            contents = dict(zip(files, pool.map(_content, files.values()), strict=True))
        by_content: dict[str, set[Any]] = defaultdict(set)
        for image_id, found in contents.items():
            by_content[found] |= classes[image_id]
        chosen = choose_validation(by_content, self.share)
        evaluated = {image_id for image_id, found in contents.items() if found in chosen}
        kept = [
            index
            for index, annotation in enumerate(content["annotations"])
            if (annotation["image_id"] in evaluated) == self.evaluated
        ]
        images = [i for i in content["images"] if (i["id"] in evaluated) == self.evaluated]
        annotations = [content["annotations"][index] for index in kept]
        return Records(
            {**content, "images": images, "annotations": annotations},
            Findings(str(self.path)) if self.evaluated else records.findings,
            [records.places[index] for index in kept] if records.places else (),
        )


def choose_validation(classes_of: Mapping[str, Collection[Any]], share: float) -> set[str]:
    """Choose what to evaluate with, so that of every class about the same share is.

    Rare classes choose first. Of a class that two or more have, one at least is on either side, as
    far as rarer ones allow.

    Args:
        classes_of: the classes of the objects of each content.
        share: of the contents.

    Returns:
        The contents that were chosen.
    """
    having: dict[Any, list[str]] = defaultdict(list)
    for content in sorted(classes_of, key=_order):
        # Those without objects are shared out as if that was a class.
        for category in set(classes_of[content]) or {None}:
            having[category].append(content)
    chosen: set[str] = set()
    decided: set[str] = set()
    for _, contents in sorted(having.items(), key=lambda item: (len(item[1]), str(item[0]))):
        wanted = min(max(round(share * len(contents)), 1), len(contents) - 1)
        free = [content for content in contents if content not in decided]
        chosen.update(free[: max(wanted - len(chosen.intersection(contents)), 0)])
        decided.update(contents)
    return chosen


def _content(file: Path) -> str:
    """Return what the content of a file is known by; its name if it can't be read."""
    try:
        return fingerprint(file)
    except (OSError, ValueError):
        return str(file)


def _order(content: str) -> bytes:
    """Return a number that has nothing to do with the length of a file."""
    return hashlib.blake2b(content.encode("utf-8", "surrogateescape"), digest_size=16).digest()
