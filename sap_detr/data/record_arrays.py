"""Standard dicts of millions of objects, held in a few arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from .standard_dict import StandardDict


@dataclass(frozen=True, eq=False)
class RecordArrays(Sequence[StandardDict]):
    """Standard dicts that are made anew whenever one is asked for: to change them, make a list.

    They take a seventh of the memory of lists and dicts, worker processes share them, and they are
    written and read as they are.

    Args:
        names: file names in UTF-8, one behind the other; uint8.
        name_starts: (L + 1,), where each begins and the last ends; int64.
        images: (L, 3), image ids, heights and widths; int64.
        starts: (L + 1,), the same as ``name_starts`` of the images' annotations; int64.
        boxes: (N, 4), XYWH in pixels; float64.
        classes: (N,), class indices; int64.
        crowds: (N,), 1 for crowds; uint8.
    """

    names: NDArray[np.uint8]
    name_starts: NDArray[np.int64]
    images: NDArray[np.int64]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowds: NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        images: Sequence[StandardDict],
        image_of: NDArray[np.int64],
        boxes: NDArray[np.float64],
        classes: NDArray[np.int64],
        crowds: NDArray[np.uint8],
    ) -> RecordArrays:
        """Put annotations to their images.

        Args:
            images: standard dicts; their annotations are not looked at.
            image_of: (N,), the image of each annotation, as its place in ``images``.
            boxes, classes, crowds: of the annotations, in any order.
        """
        names = [image["file_name"].encode("utf-8", "surrogatepass") for image in images]
        numbers = [(image["image_id"], image["height"], image["width"]) for image in images]
        order = np.argsort(image_of, kind="stable")
        return cls(
            np.frombuffer(b"".join(names), np.uint8) if names else np.empty(0, np.uint8),
            _starts(np.array([len(name) for name in names], np.int64)),
            np.array(numbers, np.int64).reshape(len(images), 3),
            _starts(np.bincount(image_of, minlength=len(images))),
            boxes[order],
            classes[order],
            crowds[order],
        )

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> StandardDict: ...
    @overload
    def __getitem__(self, index: slice) -> list[StandardDict]: ...
    def __getitem__(self, index: int | slice) -> StandardDict | list[StandardDict]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        part = slice(*self.starts[place : place + 2])
        columns = (self.boxes[part], self.classes[part], self.crowds[part])
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "iscrowd": crowd}
            for box, index, crowd in zip(*(c.tolist() for c in columns), strict=True)
        ]
        return {**self._image(place), "annotations": annotations}

    def without_annotations(self) -> list[StandardDict]:
        """Return the dicts with the keys of the images alone."""
        return [self._image(place) for place in range(len(self))]

    def _image(self, place: int) -> StandardDict:
        name = self.names[slice(*self.name_starts[place : place + 2])].tobytes()
        image_id, height, width = self.images[place].tolist()
        return {
            "file_name": name.decode("utf-8", "surrogatepass"),
            "height": height,
            "width": width,
            "image_id": image_id,
        }


def without_annotations(dicts: Sequence[StandardDict]) -> Sequence[StandardDict]:
    """Return standard dicts of which the annotations are not needed."""
    return dicts.without_annotations() if isinstance(dicts, RecordArrays) else dicts


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
