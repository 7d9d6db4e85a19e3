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

from ..errors import DatasetError
from ..registration import register_coco
from .drawing import CLASS_NAMES, SMALLEST_RADIUS, draw_image

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
    ``min_radius``: more images don't change the first ones. The folder appears in one piece, by a
    rename: an interrupted run leaves no half of a set, and of several processes that generate at
    once one wins and the others take what it wrote.

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
    heights, widths = _size_ranges(image_size)
    parameters: dict[str, Any] = {
        "generator_version": _GENERATOR_VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "heights": heights,
        "widths": widths,
        "seed": seed,
        "max_objects": max_objects,
        "min_radius": min_radius,
    }
    for key in ("num_train", "num_val", "max_objects", "min_radius"):
        if type(parameters[key]) is not int or parameters[key] < 1:
            raise DatasetError(f"shapes: {key} must be a positive integer, got {parameters[key]!r}")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise DatasetError(f"shapes: seed must be an integer from 0 to 2**32 - 1, got {seed!r}")
    # A rename does not go through a symbolic link.
    target = Path(os.path.realpath(Path(folder).expanduser()))
    if _holds_set(target, parameters):
        return target

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial"
    try:
        write_set(partial, parameters)
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
    **parameters: Any,
) -> list[str]:
    """Generate the set if needed and register it as ``{name}_train`` and ``{name}_val``.

    To be called in every process. Calling it again with the same arguments does nothing.

    Args:
        name: the names in the catalog start with it.
        folder: where the set lies, or will lie.
        parameters: those of ``generate_shapes``.

    Returns:
        The two names.

    Raises:
        DatasetError: as ``generate_shapes`` does, or if one of the names stands for another data
            set already.
    """
    root = generate_shapes(folder, **parameters)
    return [register_coco(f"{name}_{s}", root / f"{s}.json", root / s) for s in _SPLITS]


def _size_ranges(image_size: ImageSize) -> tuple[list[int], list[int]]:
    """Return the lowest and highest height, and the lowest and highest width."""
    try:
        sides: list[Any] = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
        heights, widths = ([s, s] if isinstance(s, int) else [int(v) for v in s] for s in sides)
        if all(len(r) == 2 and _SMALLEST_SIDE <= r[0] <= r[1] for r in (heights, widths)):
            return heights, widths
    except (TypeError, ValueError):
        pass
    raise DatasetError(
        "shapes: image_size must be an integer, (height, width), or ((lowest height, highest "
        "height), (lowest width, highest width)), with no side below "
        f"{_SMALLEST_SIDE} pixels; got {image_size!r}"
    )


def _holds_set(folder: Path, parameters: dict[str, Any]) -> bool:
    """Return whether the folder holds this set; False if it is missing or empty."""
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
            "folder, or delete this one to have it generated again.\n"
            f"  there:  {found}\n  wanted: {parameters}"
        )
    return True


def write_set(folder: Path, parameters: dict[str, Any]) -> None:
    """Write a whole set to a new folder.

    Args:
        folder: does not exist yet.
        parameters: what the set is a function of; they are written beside it.
    """
    logger.info("Generating a shapes data set: %s", parameters)
    folder.mkdir()
    for number, split in enumerate(_SPLITS):
        (folder / split).mkdir()
        (folder / f"{split}.json").write_text(json.dumps(_write_split(folder, number, parameters)))
    (folder / STAMP).write_text(json.dumps(parameters, indent=2) + "\n")


def _write_split(folder: Path, number: int, parameters: dict[str, Any]) -> dict[str, Any]:
    """Write the images of a split, return its annotations in COCO format."""
    (low_h, high_h), (low_w, high_w) = parameters["heights"], parameters["widths"]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(parameters[f"num_{_SPLITS[number]}"]):
        rng = np.random.RandomState([parameters["seed"], number, index])
        height, width = int(rng.randint(low_h, high_h + 1)), int(rng.randint(low_w, high_w + 1))
        pixels, shapes = draw_image(
            rng, height, width, parameters["max_objects"], parameters["min_radius"]
        )
        name = f"{index:06d}.jpg"
        Image.fromarray(pixels).save(folder / _SPLITS[number] / name, quality=_JPEG_QUALITY)
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for shape in shapes:
            x0, y0, x1, y1 = shape.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": shape.class_index + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": round(shape.area, 2),
                    "iscrowd": 0,
                }
            )
    categories = [
        {"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASS_NAMES, 1)
    ]
    return {
        "info": {"description": "generated shapes"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
