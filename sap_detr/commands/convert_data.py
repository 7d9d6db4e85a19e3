"""Write a data set of any known format in COCO format."""

from __future__ import annotations

import argparse

from ..data import find_splits
from ..data.convert import write_coco_folder


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was read and written.

    Raises:
        DatasetError, OSError: if that is not possible.
    """
    splits = find_splits(args.folder, args.train, args.val, args.format, args.val_share)
    for name, done in write_coco_folder(splits, args.target, args.copy).items():
        images = " and ".join(f"{count} images {how}" for how, count in done.items())
        print(f"{name}: {splits[name].path} ({splits[name].format})")
        print(f"  to {args.target / name}.json, {images} to {args.target / name}")
    return 0
