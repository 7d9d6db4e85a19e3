"""Reads large annotation files of the usual form, in a fraction of the time and memory.

What is not plainly right is left to the slow way, which finds out what is wrong with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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


def read_typed(
    json_file: str | os.PathLike[str],
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.float64]]:
    """Read a file in COCO's format whose annotations are complete and of the right types.

    Returns:
        The json without its annotations; of these (4, N): id, image_id, category_id, iscrowd; and
        (N, 5): bbox, area.

    Raises:
        NotPlain: if it is another file.
    """
    try:
        read = msgspec.json.decode(Path(json_file).read_bytes(), type=_File)
        found = read.annotations
        whole = ((a.id, a.image_id, a.category_id, a.iscrowd) for a in found)
        numbers = np.fromiter(chain.from_iterable(whole), np.int64, 4 * len(found))
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        raise NotPlain from error
    sizes = chain.from_iterable((*a.bbox, a.area) for a in found)
    boxes = np.fromiter(sizes, np.float64, 5 * len(found)).reshape(-1, 5)
    content = {**msgspec.structs.asdict(read), "annotations": []}
    return content, numbers.reshape(-1, 4).T, boxes


def typed_rows(
    numbers: NDArray[np.int64],
    boxes: NDArray[np.float64],
    image_ids: list[int],
    classes: Mapping[int, int | None],
) -> NDArray[np.float64]:
    """Return annotations, see ``Rows`` of :mod:`~sap_detr.data.coco_schema`.

    Args:
        numbers, boxes: as of :func:`read_typed`.
        image_ids: of the images of the file, ascending.
        classes: class index by category id; None if training does not know the class.

    Raises:
        NotPlain: if there is anything to say against one of them, or evaluation can't use it.
    """
    ids, images, category_ids, crowds = numbers
    boxes, areas = boxes[:, :4], boxes[:, 4]
    known = {category: index for category, index in classes.items() if index is not None}
    categories = sorted(known)
    image_of = _places(images, np.array(image_ids, np.int64))
    category_of = _places(category_ids, np.array(categories, np.int64))
    indices = np.array([known[category] for category in categories], np.int64)
    sound = (
        ids.all()
        and len(np.unique(ids)) == len(ids)
        and np.isin(crowds, (0, 1)).all()
        and np.isfinite(boxes).all()
        and (boxes[:, 2:] >= 0).all()
        and np.isfinite(areas).all()
        and (areas >= 0).all()
        and not area_contradicts(areas, *boxes[:, 2:].T).any()
    )
    if not sound:
        raise NotPlain
    return np.column_stack([np.arange(len(ids)), image_of, indices[category_of], crowds, boxes])


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
