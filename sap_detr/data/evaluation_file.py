"""Annotation files as COCO evaluation needs them.

pycocotools fails without ``id``, ``iscrowd``, ``area`` or ``info``, keeps one of several
annotations with the same id, and takes an object with id 0 for one that was never found. Where a
file would not do, evaluation gets a copy of it, in which nothing else is changed: boxes stay as
they are in the file, so that AP is not measured against repaired ones. Where a file numbers its
classes otherwise than the training data, or lacks some, the copy has the categories of these.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..text import shorten
from .annotation_file import as_float, as_integer
from .cache import cache_folder, write_whole
from .findings import Findings, Kind

logger = logging.getLogger(__name__)

# An object in a box of this many pixels has a pixel at least; smaller areas are fractions.
_SURELY_SOME = 100


def complete(content: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """Return annotations that passed the checks with what pycocotools needs.

    Args:
        content: the json of the file.
        findings: gets what is lacking.

    Returns:
        A copy; the json itself if nothing is lacking.
    """
    if "annotations" not in content:
        return content
    annotations = content["annotations"]
    bad_ids = _count_bad_ids(annotations)
    if bad_ids:
        findings.add(Kind.IDS, count=bad_ids)
    # Of boxes that are taken for something else, not the area is wrong.
    suspected = Kind.FRACTIONS in findings or Kind.CORNERS in findings
    completed = []
    for number, annotation in enumerate(annotations, 1):
        changes: dict[str, Any] = {}
        if bad_ids:
            changes["id"] = number
        if annotation.get("iscrowd") is None:
            changes["iscrowd"] = 0
        area = as_float(annotation.get("area"))
        width, height = (float(side) for side in annotation["bbox"][2:])
        if area is None or not 0 <= area < math.inf:
            findings.add(Kind.NO_AREA)
            changes["area"] = width * height
        elif not suspected and area_contradicts(area, width, height):
            name = annotation.get("id", f"annotations[{number - 1}]")
            what = f"area {area:g} with bbox {shorten(annotation['bbox'])}"
            findings.add(Kind.WRONG_AREA, f"annotation {shorten(name)}", what)
            changes["area"] = width * height
        completed.append({**annotation, **changes} if changes else annotation)
    if "info" in content and all(a is b for a, b in zip(annotations, completed, strict=True)):
        return content
    return {"info": {}, **content, "annotations": completed}


def with_categories(
    content: dict[str, Any], categories: Mapping[int, str], ids: Mapping[int, int | None]
) -> dict[str, Any]:
    """Return a copy of checked annotations with the categories of the training data.

    pycocotools and Detectron2 take categories by their order, so those without examples have to be
    there as well.

    Args:
        content: the json of the file.
        categories: names by id, of the training data.
        ids: the id in ``categories`` of each id in the file.
    """
    own = {as_integer(entry["id"]): entry for entry in content["categories"]}
    entries = {other: own[own_id] for own_id, other in ids.items() if other is not None}
    renumbered = {
        "categories": [
            {**entries.get(category_id, {}), "id": category_id, "name": name}
            for category_id, name in categories.items()
        ]
    }
    if "annotations" in content:
        renumbered["annotations"] = [
            {**a, "category_id": ids[as_integer(a["category_id"]) or 0]}
            for a in content["annotations"]
        ]
    return {**content, **renumbered}


def _count_bad_ids(annotations: list[dict[str, Any]]) -> int:
    ids = [as_integer(a.get("id")) for a in annotations]
    return sum(i is None or i == 0 for i in ids) + len(ids) - len(set(ids))


def area_contradicts(area: Any, width: Any, height: Any) -> Any:
    """Say whether no object in the box can have this area.

    That of a mask may be much smaller than its box, and one pixel larger on each side.

    Args:
        area, width, height: in pixels, numbers or arrays of them.

    Returns:
        bool, or an array of them.
    """
    box = width * height
    lost = ((area == 0) & (box > 0)) | ((area < 1) & (box > _SURELY_SOME))
    return lost | (area > (width + 2) * (height + 2))


def write_copy(content: dict[str, Any], json_file: str) -> str:
    """Write annotations as ``complete`` returns them to the cache folder.

    Args:
        content: the json.
        json_file: what it is a copy of.

    Returns:
        The copy's path.
    """
    text = json.dumps(content)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = cache_folder()
    target = folder / f"{Path(json_file).stem}_{digest}.json"
    write_whole(target, lambda file: file.write(text.encode()))
    logger.info("COCO evaluation of %s uses its repaired copy %s", json_file, target)
    return str(target)
