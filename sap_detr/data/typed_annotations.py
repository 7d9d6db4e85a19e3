"""Reads large annotation files of the usual form, in a fraction of the time and memory.

What is not plainly right is left to the slow way, which finds out what is wrong with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .evaluation_file import area_contradicts


class NotPlain(Exception):
    """The file is to be read the slow way."""


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int


class _File(msgspec.Struct):
    info: Any
    images: list[Any]
    categories: list[Any]
    annotations: list[_Annotation]


@dataclass(frozen=True)
class Rows:
    """Annotations side by side, checked but for their place in the image.

    Args:
        index: (N,), their places in the file.
        image_of: (N,), places of their images in the order of ids.
        boxes: (N, 4), XYWH in pixels as annotated.
        classes: (N,), class indices.
        crowds: (N,), 1 for crowds.
    """

    index: NDArray[np.int64]
    image_of: NDArray[np.int64]
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowds: NDArray[np.uint8]


class TypedFile:
    """A file in COCO's format whose annotations are complete and of the right types.

    Args:
        json_file: what to read.

    Attributes:
        content: the json without its annotations.
        ids, image_ids: (N,), of the annotations.

    Raises:
        NotPlain: if it is another file.
    """

    def __init__(self, json_file: str | os.PathLike[str]) -> None:
        try:
            read = msgspec.json.decode(Path(json_file).read_bytes(), type=_File)
        except (OSError, ValueError, RecursionError) as error:
            raise NotPlain from error
        self.content: dict[str, Any] = {
            "info": read.info,
            "images": read.images,
            "categories": read.categories,
            "annotations": [],
        }
        found = read.annotations
        self.ids = _integers((a.id for a in found), len(found))
        self.image_ids = _integers((a.image_id for a in found), len(found))
        self._category_ids = _integers((a.category_id for a in found), len(found))
        self._crowds = _integers((a.iscrowd for a in found), len(found))
        self._areas = np.fromiter((a.area for a in found), np.float64, len(found))
        numbers = chain.from_iterable(a.bbox for a in found)
        self._boxes = np.fromiter(numbers, np.float64, 4 * len(found)).reshape(-1, 4)

    def rows(self, image_ids: list[int], classes: Mapping[int, int | None]) -> Rows:
        """Return the annotations.

        Args:
            image_ids: of the images of the file, ascending.
            classes: class index by category id; None if training does not know the class.

        Raises:
            NotPlain: if there is anything to say against one of them, or evaluation can't use it.
        """
        known = {category: index for category, index in classes.items() if index is not None}
        image_of = _places(self.image_ids, np.array(image_ids, np.int64))
        categories = sorted(known)
        category_of = _places(self._category_ids, np.array(categories, np.int64))
        indices = np.array([known[category] for category in categories], np.int64)
        sound = (
            self.ids.all()
            and len(np.unique(self.ids)) == len(self.ids)
            and np.isin(self._crowds, (0, 1)).all()
            and np.isfinite(self._boxes).all()
            and (self._boxes[:, 2:] >= 0).all()
            and np.isfinite(self._areas).all()
            and (self._areas >= 0).all()
            and not area_contradicts(self._areas, *self._boxes[:, 2:].T).any()
        )
        if not sound:
            raise NotPlain
        return Rows(
            np.arange(len(self.ids)),
            image_of,
            self._boxes,
            indices[category_of],
            self._crowds.astype(np.uint8),
        )


def _integers(values: Iterable[int], count: int) -> NDArray[np.int64]:
    try:
        return np.fromiter(values, np.int64, count)
    except OverflowError as error:
        raise NotPlain from error


def _places(values: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each value is in an ascending array that should have all of them."""
    if not len(values):
        return np.empty(0, np.int64)
    if not len(known):
        raise NotPlain
    places = np.searchsorted(known, values)
    if (known[np.minimum(places, len(known) - 1)] != values).any():
        raise NotPlain
    return places
