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


def needs_repair(content: dict[str, Any], findings: Findings) -> bool:
    """Return whether annotations that passed the checks lack what pycocotools needs.

    Args:
        content: the json of the file.
        findings: gets what is lacking.
    """
    if "annotations" not in content:
        return False
    annotations = content["annotations"]
    bad_ids = _count_bad_ids(annotations)
    if bad_ids:
        findings.add(Kind.IDS, count=bad_ids)
    bad_areas = 0
    suspected = Kind.FRACTIONS in findings or Kind.CORNERS in findings
    for index, annotation in enumerate(annotations):
        area = _area(annotation)
        if area is None:
            findings.add(Kind.NO_AREA)
        elif suspected:
            # Not the area is wrong.
            continue
        elif _contradicts(area, annotation):
            name = annotation.get("id", f"annotations[{index}]")
            what = f"area {area:g} with bbox {shorten(annotation['bbox'])}"
            findings.add(Kind.WRONG_AREA, f"annotation {shorten(name)}", what)
        else:
            continue
        bad_areas += 1
    crowd_is_complete = all(a.get("iscrowd") is not None for a in annotations)
    return bool(bad_ids or bad_areas or not crowd_is_complete or "info" not in content)


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


def repair(content: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of checked annotations with what pycocotools needs."""
    if "annotations" not in content:
        return content
    renumber = _count_bad_ids(content["annotations"]) > 0
    repaired = []
    for number, annotation in enumerate(content["annotations"], 1):
        annotation = {**annotation, "iscrowd": int(annotation.get("iscrowd") or 0)}
        if renumber:
            annotation["id"] = number
        area = _area(annotation)
        if area is None or _contradicts(area, annotation):
            annotation["area"] = float(annotation["bbox"][2]) * float(annotation["bbox"][3])
        repaired.append(annotation)
    return {"info": {}, **content, "annotations": repaired}


def _count_bad_ids(annotations: list[dict[str, Any]]) -> int:
    ids = [as_integer(a.get("id")) for a in annotations]
    return sum(i is None or i == 0 for i in ids) + len(ids) - len(set(ids))


def _area(annotation: dict[str, Any]) -> float | None:
    area = as_float(annotation.get("area"))
    return area if area is not None and 0 <= area < math.inf else None


def _contradicts(area: float, annotation: dict[str, Any]) -> bool:
    width, height = (float(side) for side in annotation["bbox"][2:])
    return bool(area_contradicts(area, width, height))


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


def write_repaired(content: dict[str, Any], json_file: str) -> str:
    """Write annotations as ``repair`` returns them to the cache folder.

    Args:
        content: the repaired json.
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
