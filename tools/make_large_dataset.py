#!/usr/bin/env python
"""Make a large data set out of a few pictures, to measure how long a training takes to start.

make_large_dataset.py FOLDER --images 118000 --boxes 860000
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sap_detr.arguments import ArgumentParser, positive_int

_NUM_CATEGORIES = 80
# A file may have 65,000 names in some file systems, 1,024 in others.
_LINKS_PER_PICTURE = 1000
_WIDTH, _HEIGHT = 640, 480
_BOXES_AT_ONCE = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = ArgumentParser("make_large_dataset.py", __doc__)
    parser.add_argument("folder", type=Path, help="must not exist")
    for name, default in (("--images", 118_000), ("--boxes", 860_000)):
        parser.add_argument(name, type=positive_int, default=default, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        write_large_dataset(args.folder, args.images, args.boxes)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.folder}: {args.images} images, {args.boxes} boxes")
    return 0


def write_large_dataset(folder: str | os.PathLike[str], images: int, boxes: int) -> Path:
    """Write a data set in COCO format whose image files are hard links to a few pictures.

    There are ``train`` with all images and ``val`` with 16 of its own, in ``{split}.json`` and
    ``{split}/``. Nothing can be learned from it: the pictures are noise, and boxes lie anywhere.

    Args:
        folder: must not exist.
        images: of ``train``.
        boxes: of ``train``, spread evenly over the images.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder exists.
    """
    root = Path(folder)
    if root.exists():
        raise FileExistsError(f"{root} exists: name a folder that does not")
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count, objects in (("train", images, boxes), ("val", 16, 64)):
        (root / split).mkdir()
        for index in range(count):
            path = root / split / _file_name(index)
            picture = path.with_name(_file_name(index - index % _LINKS_PER_PICTURE))
            if path == picture:
                noise = rng.integers(0, 256, (_HEIGHT // 16, _WIDTH // 16, 3), np.uint8)
                Image.fromarray(noise).resize((_WIDTH, _HEIGHT)).save(path)
            else:
                os.link(picture, path)
        with (root / f"{split}.json").open("w") as file:
            file.writelines(_annotation_file(count, objects, rng))
    return root


def _file_name(index: int) -> str:
    return f"{index:012d}.jpg"


def _annotation_file(images: int, boxes: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield the pieces of the json file, of which few are held at a time."""
    yield '{"info": {}, "categories": ['
    yield ", ".join(f'{{"id": {i + 1}, "name": "class {i + 1}"}}' for i in range(_NUM_CATEGORIES))
    yield '], "images": ['
    for index in range(images):
        yield ", " * (index > 0) + (
            f'{{"id": {index + 1}, "file_name": "{_file_name(index)}", "width": {_WIDTH}, '
            f'"height": {_HEIGHT}}}'
        )
    yield '], "annotations": ['
    for start in range(0, boxes, _BOXES_AT_ONCE):
        count = min(_BOXES_AT_ONCE, boxes - start)
        sizes = rng.uniform(8, (_WIDTH / 2, _HEIGHT / 2), (count, 2)).round(2)
        corners = (rng.random((count, 2)) * ((_WIDTH, _HEIGHT) - sizes)).round(2)
        drawn = np.hstack([corners, sizes]).tolist()
        categories = rng.integers(1, _NUM_CATEGORIES + 1, count).tolist()
        for index, (box, category) in enumerate(zip(drawn, categories, strict=True), start):
            yield ", " * (index > 0) + (
                f'{{"id": {index + 1}, "image_id": {index * images // boxes + 1}, "category_id": '
                f'{category}, "bbox": {box}, "area": {box[2] * box[3]:.4f}, "iscrowd": 0}}'
            )
    yield "]}"


if __name__ == "__main__":
    sys.exit(main())
