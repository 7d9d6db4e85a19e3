"""Writes data sets of any known format as folders in COCO format."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..text import listing
from .coco_schema import read_split
from .errors import DatasetError
from .records import SplitFiles


def write_coco_folder(
    splits: Mapping[str, SplitFiles], target: Path, copy: bool = False
) -> dict[str, Counter[str]]:
    """Write ``train.json`` with ``train/``, and the same for other splits.

    Boxes and sizes stay as they are; what COCO evaluation needs and is missing is added. All splits
    get the categories of the first. An image is called as its file; with its id before it where
    several files have one name.

    Args:
        splits: by name; the first is trained on.
        target: a folder that is new or empty.
        copy: copy images in place of linking them.

    Returns:
        By split, how many images were linked and copied.

    Raises:
        FileExistsError: if the target holds anything.
        DatasetError: if there is an error among the findings, or an image is missing.
        OSError: if it can't be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} holds something already: name a new folder")
    contents: dict[str, dict[str, Any]] = {}
    categories: dict[int, str] | None = None
    for name, files in splits.items():
        read = read_split(files, training=not contents, categories=categories)
        read.findings.raise_errors()
        read.findings.log()
        categories = read.categories
        contents[name] = read.for_evaluation or files.records().content
        sources = [files.image_root / image["file_name"] for image in contents[name]["images"]]
        missing = [path for path in sources if not path.is_file()]
        if missing:
            raise DatasetError(f"{files.path}: missing image files: {listing(missing, 5)}")
    done = {}
    for name, content in contents.items():
        root, images = splits[name].image_root, content["images"]
        done[name] = Counter[str]()
        (target / name).mkdir(parents=True)
        names = Counter(Path(image["file_name"]).name for image in images)
        renamed = []
        for image in images:
            file_name = Path(image["file_name"]).name
            if names[file_name] > 1:
                file_name = f"{image['id']}_{file_name}"
            done[name][_place(root / image["file_name"], target / name / file_name, copy)] += 1
            renamed.append({**image, "file_name": file_name})
        # Last, so that what was interrupted is not taken for a data set.
        text = json.dumps({**content, "images": renamed})
        (target / f"{name}.json").write_text(text, encoding="utf-8")
    return done


def _place(source: Path, target: Path, copy: bool) -> str:
    """Link or copy a file that is not there yet; return which."""
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    if not copy:
        try:
            # Not the link, which may be relative to its folder.
            os.link(source.resolve(), target)
            return "linked"
        except OSError:
            pass  # another disk, or one without links
    shutil.copyfile(source, target)
    return "copied"
