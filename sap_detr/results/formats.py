"""Results as files that other programs read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import write_atomically

COLUMNS = ("file", "image_id", "category_id", "category", "score", "x", "y", "width", "height")


def write_coco(records: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write COCO's results, a list with an object per detection, for pycocotools' ``loadRes``.

    Args:
        records: per picture, with its ``results`` as of :func:`~sap_detr.detector.to_coco`.
        path: file to write; whole or not at all.

    Returns:
        The number of detections.
    """
    count = 0
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for record in records:
            for result in record["results"]:
                file.write(",\n" if count else "\n")
                file.write(json.dumps(result))
                count += 1
        file.write("\n]\n")
    return count


def write_csv(
    records: Iterable[Mapping[str, Any]],
    path: Path,
    category_names: Mapping[int, str],
    threshold: float,
) -> int:
    """Write a table with a line per detection: ``COLUMNS``, boxes in pixels.

    Args:
        records: per picture, with its ``file`` and ``results``.
        path: file to write; whole or not at all.
        category_names: by category id.
        threshold: lowest score.

    Returns:
        The number of detections.
    """
    count = 0
    with (
        write_atomically(path) as temporary,
        # Names of files need not be text: they stand there as they do in JSON.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for record in records:
            for result in record["results"]:
                if result["score"] < threshold:
                    continue
                number = result["category_id"]
                name = category_names.get(number, "")
                row = (record["file"], result["image_id"], number, name, result["score"])
                table.writerow((*row, *result["bbox"]))
                count += 1
    return count


def write_image_list(
    records: Iterable[Mapping[str, Any]], path: Path, category_names: Mapping[int, str]
) -> None:
    """Write which ids pictures and classes were given, in the form of COCO's annotations.

    Args:
        records: per picture, with its ``file``, ``id`` and ``size`` (height, width).
        path: file to write; whole or not at all.
        category_names: by category id.
    """
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        categories = [{"id": number, "name": name} for number, name in category_names.items()]
        file.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
        for index, record in enumerate(records):
            height, width = record["size"]
            entry = {"id": record["id"], "file_name": record["file"]}
            file.write(",\n" if index else "\n")
            file.write(json.dumps({**entry, "height": height, "width": width}))
        file.write("\n]}\n")
