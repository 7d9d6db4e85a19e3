"""Objects and detections of a data set as arrays, read from COCO's two kinds of files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..text import shorten

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Of a class in an image, the best ones: COCO leaves out the others.
MAX_DETECTIONS = 100


class EvaluationError(UserError, ValueError):
    """Annotations, results or a report can't be used; the message says why and what to do."""


@dataclass(frozen=True)
class Objects:
    """True boxes, image by image; of an image in the order of the file.

    Attributes:
        image: (N,), index of the image, ascending.
        cls: (N,), index of the class.
        box: (N, 4), x, y, width, height in pixels.
        crowd: (N,), whether it stands for many objects: found or not, it does not count.
        area: (N,), in pixels; of a mask, where there is one.
    """

    image: Ints
    cls: Ints
    box: Floats
    crowd: Bools
    area: Floats

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Detections:
    """Found boxes, the best first; of equal scores in the order of images, then of the file.

    Attributes:
        image: (M,), index of the image.
        cls: (M,), index of the class.
        box: (M, 4), x, y, width, height in pixels.
        score: (M,), 0..1, descending.
    """

    image: Ints
    cls: Ints
    box: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class EvaluationData:
    """A data set with what was found in it.

    Attributes:
        image_ids: by index of the image, ascending.
        file_names: by index of the image; "" where the file names none.
        sizes: (I, 2), width and height of the images.
        class_names: by index of the class, which follows ascending category ids.
        category_ids: by index of the class.
        objects: what is there.
        detections: what was found; of a class in an image at most ``MAX_DETECTIONS``.
    """

    image_ids: Sequence[int]
    file_names: Sequence[str]
    sizes: Floats
    class_names: Sequence[str]
    category_ids: Sequence[int]
    objects: Objects
    detections: Detections

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def count_objects(self, weight: Ints | None = None) -> Ints:
        """Return how many objects each class has (C,), crowds left out.

        Args:
            weight: (I,), how often each image counts; None for once.
        """
        counted = ~self.objects.crowd
        weights = None if weight is None else weight[self.objects.image[counted]]
        found = np.bincount(self.objects.cls[counted], weights, self.num_classes)
        return found.astype(np.int64)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a json file.

    Raises:
        EvaluationError: there is none, or it is none.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{os.fspath(path)} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise EvaluationError(f"{os.fspath(path)} is no json file: {error}") from error


def evaluation_data(
    annotations: Any, results: Any, annotations_name: str = "", results_name: str = ""
) -> EvaluationData:
    """Make arrays of the contents of an annotation file and of a file of results.

    Args:
        annotations: COCO's dict with ``images``, ``annotations`` and ``categories``.
        results: COCO's list of dicts with ``image_id``, ``category_id``, ``bbox`` and ``score``, as
            Detectron2 writes it into ``coco_instances_results.json``.
        annotations_name: of the file, for messages.
        results_name: of the file, for messages.

    Raises:
        EvaluationError: they are of another form, or do not belong together.
    """
    where = annotations_name or "the annotations"
    if not isinstance(annotations, Mapping):
        raise EvaluationError(f"{where}: COCO annotations are a dict, this is a list or a value")
    lacking = [k for k in ("images", "annotations", "categories") if k not in annotations]
    if lacking:
        raise EvaluationError(f"{where} has no {', '.join(lacking)}: are these COCO annotations?")
    try:
        images = sorted({int(i["id"]): i for i in annotations["images"]}.items())
        categories = sorted((int(c["id"]), str(c["name"])) for c in annotations["categories"])
        image_index = {number: index for index, (number, _) in enumerate(images)}
        class_index = {number: index for index, (number, _) in enumerate(categories)}
        sizes = [(image["width"], image["height"]) for _, image in images]
        true = annotations["annotations"]
        objects = Objects(
            np.array([image_index[a["image_id"]] for a in true], np.int64),
            np.array([class_index[a["category_id"]] for a in true], np.int64),
            _boxes(true),
            np.array([bool(a.get("iscrowd", 0)) for a in true], np.bool_),
            np.array([a["area"] for a in true], np.float64),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"{where}: an entry lacks something, or refers to nothing ({error!r}); "
            "sap-detr check --folder DATA says which"
        ) from error
    order = np.argsort(objects.image, kind="stable")
    return EvaluationData(
        [number for number, _ in images],
        [str(image.get("file_name", "")) for _, image in images],
        np.array(sizes, np.float64).reshape(-1, 2),
        [name for _, name in categories],
        [number for number, _ in categories],
        Objects(*(array[order] for array in vars(objects).values())),
        _detections(results, image_index, class_index, results_name or "the results", where),
    )


def _boxes(entries: Sequence[Mapping[str, Any]]) -> Floats:
    boxes = np.array([entry["bbox"] for entry in entries], np.float64)
    return boxes.reshape(len(entries), 4)


def _detections(
    results: Any, image_index: dict[int, int], class_index: dict[int, int], where: str, truth: str
) -> Detections:
    """Check results, sort them, and leave out what is beyond the best of a class in an image."""
    if not isinstance(results, list):
        raise EvaluationError(
            f"{where}: COCO results are a list of detections, this is a {type(results).__name__}"
        )
    try:
        image = np.array([image_index.get(r["image_id"], -1) for r in results], np.int64)
        cls = np.array([class_index.get(r["category_id"], -1) for r in results], np.int64)
        box = _boxes(results)
        score = np.array([r["score"] for r in results], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"{where}: every detection needs image_id, category_id, bbox (x, y, width, height) and "
            f"score ({error!r})"
        ) from error
    for name, indices in (("image_id", image), ("category_id", cls)):
        if (indices < 0).any():
            value = results[int(np.argmin(indices))][name]
            raise EvaluationError(
                f"{where}: {name} {shorten(value)} is none of {truth}: do the two belong together?"
            )
    finite = np.isfinite(box).all(1) & np.isfinite(score)
    bad = ~finite | (score < 0) | (score > 1) | (box[:, 2:] < 0).any(1)
    if bad.any():
        entry = int(np.argmax(bad))
        raise EvaluationError(
            f"{where}: entry {entry} has score {score[entry]:g} and bbox {box[entry].tolist()}: "
            "scores from 0 to 1 and boxes of finite size are expected"
        )
    order = np.lexsort((image, -score))  # stable: the order of the file decides last
    order = order[rank_within(image[order] * len(class_index) + cls[order]) < MAX_DETECTIONS]
    return Detections(image[order], cls[order], box[order], score[order])


def rank_within(groups: Ints) -> Ints:
    """Return for every element how many of its group stand before it: 0, 1, ... (N,)."""
    order = np.argsort(groups, kind="stable")
    grouped = groups[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]][: len(groups)])
    lengths = np.diff(np.r_[starts, len(groups)])
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return rank
