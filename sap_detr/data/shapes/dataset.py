"""Writes the ``shapes`` data set to disk once and registers it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..coco_folder import register_coco
from ..errors import DatasetError
from .drawing import CLASS_NAMES, SMALLEST_RADIUS, DrawnShape, draw_image

__all__ = ["CLASS_NAMES", "generate_shapes", "register_shapes"]

logger = logging.getLogger(__name__)

ImageSize = int | Sequence[int] | Sequence[Sequence[int]]

STAMP = "shapes.json"
# To be raised whenever the same parameters give other pixels or boxes than before.
_GENERATOR_VERSION = 1
_SPLITS = ("train", "val")
_JPEG_QUALITY = 92
_SMALLEST_SIDE = 32


def generate_shapes(
    folder: str | os.PathLike[str],
    num_train: int = 1000,
    num_val: int = 200,
    image_size: ImageSize = ((128, 192), (128, 192)),
    seed: int = 0,
    max_objects: int = 8,
    min_radius: int = SMALLEST_RADIUS,
) -> Path:
    """Write ``train/*.jpg``, ``train.json`` and the same for ``val`` to a folder, if not there yet.

    An image is a function of (seed, split, its index) and of the image size, ``max_objects`` and
    ``min_radius``:
    more images don't change the first ones. The folder appears in one piece, by a rename: an
    interrupted run leaves no half of a set, and of several processes that generate at once one wins
    and the others take what it wrote.

    Args:
        folder: where the set lies, or will lie.
        num_train, num_val: images of the two splits.
        image_size: pixels: one number, (height, width), or ((lowest height, highest height),
            (lowest width, highest width)) from which every image draws its own.
        seed: another seed, another set.
        max_objects: most shapes in an image.
        min_radius: of the shapes, in pixels.

    Returns:
        The folder.

    Raises:
        DatasetError: if the parameters make no sense, or the folder holds something else or a set
            that was generated with other parameters.
    """
    parameters = _checked_parameters(num_train, num_val, image_size, seed, max_objects, min_radius)
    # A rename does not go through a symbolic link.
    target = Path(os.path.realpath(Path(folder).expanduser()))
    if _holds_set(target, parameters):
        return target

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial"
    try:
        _write_set(partial, parameters)
        with contextlib.suppress(OSError):
            target.rmdir()
        try:
            partial.rename(target)
        except OSError:
            if not _holds_set(target, parameters):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def register_shapes(
    name: str = "shapes",
    folder: str | os.PathLike[str] = "datasets/shapes",
    num_train: int = 1000,
    num_val: int = 200,
    image_size: ImageSize = ((128, 192), (128, 192)),
    seed: int = 0,
    max_objects: int = 8,
    min_radius: int = SMALLEST_RADIUS,
) -> list[str]:
    """Generate the set if needed and register it as ``{name}_train`` and ``{name}_val``.

    To be called in every process. Calling it again with the same arguments does nothing. The
    arguments are those of ``generate_shapes``.

    Returns:
        The two names.

    Raises:
        DatasetError: as ``generate_shapes`` does, or if one of the names stands for another data
            set already.
    """
    root = generate_shapes(folder, num_train, num_val, image_size, seed, max_objects, min_radius)
    return [register_coco(f"{name}_{s}", root / f"{s}.json", root / s) for s in _SPLITS]


def _checked_parameters(
    num_train: int,
    num_val: int,
    image_size: ImageSize,
    seed: int,
    max_objects: int,
    min_radius: int,
) -> dict[str, Any]:
    heights, widths = _size_ranges(image_size)
    counts = {
        "num_train": num_train,
        "num_val": num_val,
        "max_objects": max_objects,
        "min_radius": min_radius,
    }
    for key, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DatasetError(f"shapes: {key} must be a positive integer, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise DatasetError(f"shapes: seed must be an integer from 0 to 2**32 - 1, got {seed!r}")
    return {
        "generator_version": _GENERATOR_VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "heights": heights,
        "widths": widths,
        "seed": seed,
        "max_objects": max_objects,
        "min_radius": min_radius,
    }


def _size_ranges(image_size: ImageSize) -> tuple[list[int], list[int]]:
    """The lowest and highest height, and the lowest and highest width."""
    try:
        sides: Sequence[Any] = (
            [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        )
        ranges = [[s, s] if isinstance(s, int) else [int(v) for v in s] for s in sides]
        (low_h, high_h), (low_w, high_w) = ranges
    except (TypeError, ValueError):
        low_h = low_w = high_h = high_w = -1
    if not (_SMALLEST_SIDE <= low_h <= high_h and _SMALLEST_SIDE <= low_w <= high_w):
        raise DatasetError(
            "shapes: image_size must be an integer, (height, width), or ((lowest height, highest "
            "height), "
            f"(lowest width, highest width)), with no side below {_SMALLEST_SIDE} pixels; got "
            f"{image_size!r}"
        )
    return [low_h, high_h], [low_w, high_w]


def _holds_set(folder: Path, parameters: dict[str, Any]) -> bool:
    """Whether the folder holds the set with these parameters; False if it is missing or empty."""
    try:
        found = json.loads((folder / STAMP).read_text())
    except FileNotFoundError:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DatasetError(
                f"{folder} exists and is no generated shapes data set (it has no {STAMP}): "
                "name another folder, which must be new or empty"
            ) from None
        return False
    except ValueError as error:
        raise DatasetError(
            f"{folder / STAMP} can't be read ({error}): delete the folder, or name another one"
        ) from error
    if found != parameters:
        raise DatasetError(
            f"{folder} holds a shapes data set generated with other parameters: name another "
            "folder, or delete this "
            f"one to have it generated again.\n  there:  {found}\n  wanted: {parameters}"
        )
    return True


def _write_set(folder: Path, parameters: dict[str, Any]) -> None:
    logger.info("Generating a shapes data set: %s", parameters)
    folder.mkdir()
    for number, split in enumerate(_SPLITS):
        (folder / split).mkdir()
        coco = _write_split(folder / split, number, parameters[f"num_{split}"], parameters)
        (folder / f"{split}.json").write_text(json.dumps(coco))
    (folder / STAMP).write_text(json.dumps(parameters, indent=2) + "\n")


def _write_split(
    folder: Path, split_number: int, count: int, parameters: dict[str, Any]
) -> dict[str, Any]:
    """Write the images of a split, return its annotations in COCO format."""
    (low_h, high_h), (low_w, high_w) = parameters["heights"], parameters["widths"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.RandomState([parameters["seed"], split_number, index])
        height, width = int(rng.randint(low_h, high_h + 1)), int(rng.randint(low_w, high_w + 1))
        pixels, shapes = draw_image(
            rng, height, width, parameters["max_objects"], parameters["min_radius"]
        )
        file_name = f"{index:06d}.jpg"
        Image.fromarray(pixels).save(folder / file_name, quality=_JPEG_QUALITY)
        images.append({"id": index + 1, "file_name": file_name, "height": height, "width": width})
        for shape in shapes:
            annotations.append(_annotation(len(annotations) + 1, index + 1, shape))
    return {
        "info": {"description": "generated shapes"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i + 1, "name": n, "supercategory": "shape"} for i, n in enumerate(CLASS_NAMES)
        ],
    }


def _annotation(annotation_id: int, image_id: int, shape: DrawnShape) -> dict[str, Any]:
    x0, y0, x1, y1 = shape.box
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": shape.class_index + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": round(shape.area, 2),
        "iscrowd": 0,
    }
