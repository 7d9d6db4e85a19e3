"""Finds bad data before training starts: in COCO annotations, registered data sets, image files."""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import math
import os
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from .errors import DatasetError
from .files import name_image, scan_image_files
from .findings import Example, Findings
from .images import TOO_LARGE, TOO_LARGE_REMEDY, too_many_pixels

logger = logging.getLogger(__name__)

Json = dict[str, Any]

# Rounding in annotation files puts boxes over the border by less than this (pixels); it isn't worth
# a warning.
_CLIP_TOLERANCE = 0.05


_short_repr = reprlib.Repr()
_short_repr.maxstring = _short_repr.maxother = 100
_short_repr.maxlong = 30
_shorten = _short_repr.repr


class _Fault(Exception):
    """What is wrong with one entry: the kind of fault, this one, and what to do about it."""

    def __init__(self, kind: str, what: str, remedy: str) -> None:
        super().__init__(kind, what, remedy)
        self.kind = kind
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True)
class CheckedAnnotations:
    """An annotation file that passed the checks.

    Args:
        json_file, image_root: what was read.
        class_names: names in the order of the contiguous class indices.
        category_ids: the file's category ids, ascending; the class index of an id is its place in
            this list.
        dicts: Detectron2's standard dicts in the order of image ids; boxes XYWH in pixels, clipped
            to the image. Crowd annotations are among them.
        repairs: what was repaired, and how often.
        evaluation_json: the file's content made fit for pycocotools, or None if the file itself is:
            only fields that COCO evaluation can't do without are changed (annotation ``id``,
            ``iscrowd``, ``area``; ``info``). Boxes stay as they are in the file, so that AP is not
            measured against repaired ones.
    """

    json_file: str
    image_root: str
    class_names: list[str]
    category_ids: list[int]
    dicts: list[Json]
    repairs: Counter[str] = field(default_factory=Counter)
    evaluation_json: Json | None = None

    def log_repairs(self) -> None:
        """One warning with everything that was repaired, if anything was."""
        if self.repairs:
            listed = "; ".join(f"{count} {what}" for what, count in self.repairs.items())
            logger.warning("%s was repaired while reading it: %s", self.json_file, listed)


def check_coco_json(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    require_annotations: bool = True,
) -> CheckedAnnotations:
    """Read an annotation file in COCO's detection format and check all of it.

    Repaired, and counted in the result: boxes that reach over the border (clipped), boxes without
    area in the image (dropped), missing ``iscrowd`` (0) and ``area`` (width times height),
    annotation ids that evaluation can't use.

    Args:
        json_file: path of the annotations.
        image_root: folder that ``file_name`` is relative to. The images are not looked at, see
            ``check_image_files``.
        require_annotations: False for images without known objects, which can be used for inference
            only.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: for anything else that can't be used; it names the first offending items and
            counts all.
    """
    content = read_json(json_file)
    checked = check_coco(
        content,
        os.fspath(json_file),
        os.fspath(image_root),
        require_annotations=require_annotations,
    )
    if checked.evaluation_json is None and _has_byte_order_mark(json_file):
        checked.repairs["byte order mark (left out for evaluation)"] += 1
        return replace(checked, evaluation_json=content)
    return checked


def read_json(json_file: str | os.PathLike[str]) -> Any:
    """Parse a json file.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is no json, for instance because it was cut off.
    """
    try:
        with Path(json_file).open(encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{os.fspath(json_file)}: there is no such annotation file; check the path in the "
            "config"
        ) from None
    except (ValueError, RecursionError) as error:
        size = Path(json_file).stat().st_size
        raise DatasetError(
            f"{os.fspath(json_file)}: not valid json, or cut off ({size} bytes; {error}). "
            "Download or export the file again."
        ) from error
    except OSError as error:
        raise DatasetError(f"{os.fspath(json_file)}: can't be read ({error})") from error


def _has_byte_order_mark(json_file: str | os.PathLike[str]) -> bool:
    # pycocotools does not read such files.
    with open(json_file, "rb") as file:
        return file.read(3) == codecs.BOM_UTF8


def check_coco(
    content: Any, json_file: str, image_root: str, *, require_annotations: bool = True
) -> CheckedAnnotations:
    """The checks of ``check_coco_json`` on parsed json."""
    findings = Findings(json_file)
    inspected = inspect_coco(content, image_root, findings, require_annotations=require_annotations)
    findings.raise_errors()
    if require_annotations and not inspected.num_usable:
        raise DatasetError(
            f"{json_file}: not one of its {len(content['annotations'])} annotations can be used "
            "for training (crowd annotations and boxes without area in the image don't count). "
            "Check that this is the file you meant."
        )
    evaluation_json = repair_for_evaluation(content, findings)
    return CheckedAnnotations(
        json_file=json_file,
        image_root=image_root,
        class_names=list(inspected.categories.values()),
        category_ids=list(inspected.categories),
        dicts=inspected.dicts,
        repairs=findings.counts("warning", "note"),
        evaluation_json=evaluation_json,
    )


@dataclass(frozen=True)
class InspectedAnnotations:
    """What can be used of an annotation file, even if other parts of it can't.

    Args:
        categories: names by category id, ascending.
        dicts: as of ``CheckedAnnotations``, in the order of image ids.
        num_usable: annotations that can be trained on.
    """

    categories: dict[int, str]
    dicts: list[Json]
    num_usable: int


def inspect_coco(
    content: Any, image_root: str, findings: Findings, *, require_annotations: bool = True
) -> InspectedAnnotations:
    """Check parsed json entry by entry.

    Args:
        content: the json.
        image_root: folder that file names are relative to.
        findings: gets what is wrong with entries (errors), and what was repaired.
        require_annotations: False if the list ``annotations`` may be missing.

    Raises:
        DatasetError: if it is not in COCO's detection format at all.
    """
    _check_sections(content, findings.source, require_annotations)
    categories = _checked_categories(content["categories"], findings)
    images = _checked_images(content["images"], image_root, findings)
    contiguous = {category_id: index for index, category_id in enumerate(categories)}
    annotations = content.get("annotations", [])
    usable = _attach_annotations(annotations, images, contiguous, findings)
    return InspectedAnnotations(categories, [images[i] for i in sorted(images)], usable)


def _check_sections(content: Any, json_file: str, require_annotations: bool) -> None:
    if not isinstance(content, dict):
        raise DatasetError(
            f"{json_file}: not COCO's detection format: it holds a {type(content).__name__}, not "
            "an object with the "
            "lists images, annotations, categories. Convert the annotations to COCO format."
        )
    for key in ("images", "annotations", "categories"):
        if key == "annotations" and key not in content and not require_annotations:
            continue
        if not isinstance(content.get(key), list):
            found = f"is a {type(content[key]).__name__}" if key in content else "is missing"
            raise DatasetError(
                f"{json_file}: not COCO's detection format: the list {key!r} {found}; found the "
                "keys "
                f"{_shorten(sorted(content))}. Convert the annotations to COCO format."
            )
    for key in ("images", "categories"):
        if not content[key]:
            raise DatasetError(f"{json_file}: the list {key!r} is empty: there is nothing to use")


def _integer(value: Any) -> int | None:
    """An integer of at most 64 bits (also if written as 3.0), else None."""
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if abs(value) < 2**63 else None


def _float(value: Any) -> float | None:
    """A number as float (infinite if it is too large), else None."""
    if type(value) is float:
        return value
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _checked_categories(entries: list[Any], findings: Findings) -> dict[int, str]:
    """Names by category id, ascending."""
    kind, remedy = "unusable categories", "every category needs an own integer id and a name"
    names: dict[int, str] = {}

    def note(where: str, what: str) -> None:
        findings.add(kind, Example(where, what), remedy=remedy)

    for index, entry in enumerate(entries):
        where = f"categories[{index}]"
        if not isinstance(entry, dict):
            note(where, f"is {_shorten(entry)}, not an object")
            continue
        category_id, name = _integer(entry.get("id")), entry.get("name")
        if category_id is None:
            note(where, f"id is {_shorten(entry.get('id'))}, not an integer")
        elif not isinstance(name, str) or not name:
            note(f"category {category_id}", f"name is {_shorten(name)}")
        elif category_id in names:
            what = f"the id is used twice, for {names[category_id]!r} and {name!r}"
            note(f"category {category_id}", what)
        else:
            names[category_id] = name
    duplicates = len(names) - len(set(names.values()))
    if duplicates:
        kind = "categories with the name of another one (kept as classes of their own)"
        findings.add(kind, severity="warning", count=duplicates)
    return dict(sorted(names.items()))


def _checked_images(entries: list[Any], image_root: str, findings: Findings) -> dict[int, Json]:
    """Standard dicts, with no annotations yet, by image id."""
    remedy = "every image needs an own integer id, a file_name, and its height and width in pixels"
    images: dict[int, Json] = {}

    def note(kind: str, where: str, what: str, remedy: str = remedy) -> None:
        findings.add(kind, Example(where, what), remedy=remedy)

    for index, entry in enumerate(entries):
        where = f"images[{index}]"
        if not isinstance(entry, dict):
            note("unusable images", where, f"is {_shorten(entry)}, not an object")
            continue
        image_id, name = _integer(entry.get("id")), entry.get("file_name")
        if image_id is None:
            what = f"id is {_shorten(entry.get('id'))}, not an integer"
            note("unusable images", where, what)
            continue
        where = f"image {image_id}"
        if image_id in images:
            other = os.path.relpath(images[image_id]["file_name"], image_root)
            what = f"its id is that of {other!r} too"
            note("images with the id of another one", f"{where} ({_shorten(name)})", what)
            continue
        if not isinstance(name, str) or not name or "\0" in name:
            what = "file_name is not the name of a file"
            note("unusable images", f"{where} ({_shorten(name)})", what)
            continue
        height, width = _integer(entry.get("height")), _integer(entry.get("width"))
        if height is None or width is None or height <= 0 or width <= 0:
            shown = f"height {_shorten(entry.get('height'))}, width {_shorten(entry.get('width'))}"
            what = f"{shown}: not two positive integers"
            note("images without a usable size", f"{where} ({_shorten(name)})", what)
            height = width = 0
        else:
            too_large = too_many_pixels(width, height)
            if too_large is not None:
                note(TOO_LARGE, f"{where} ({_shorten(name)})", too_large, TOO_LARGE_REMEDY)
        images[image_id] = {
            "file_name": str(Path(image_root, name)),
            "height": height,
            "width": width,
            "image_id": image_id,
            "annotations": [],
        }
    return images


def _attach_annotations(
    entries: list[Any],
    images: Mapping[int, Json],
    contiguous: Mapping[int, int],
    findings: Findings,
) -> int:
    """Put the annotations into their images' dicts; returns how many of them can be trained on."""
    usable = 0
    for index, entry in enumerate(entries):
        try:
            image = _image_of(entry, images)
            annotation = _checked_annotation(entry, contiguous, findings)
        except _Fault as fault:
            example = Example(_name_annotation(entry, index, images), fault.what)
            findings.add(fault.kind, example, remedy=fault.remedy)
            continue
        if not image["width"]:
            continue
        box, repair = _clip_box(annotation["bbox"], image["width"], image["height"])
        if repair is not None:
            where = _name_annotation(entry, index, images)
            what = (
                f"bbox {_shorten(annotation['bbox'])} in an image of "
                f"{image['width']}x{image['height']} (width x height)"
            )
            boxes = (tuple(annotation["bbox"]),)
            example = Example(where, what, (image["file_name"],), boxes)
            findings.add(repair, example, severity="warning")
        if box is not None:
            image["annotations"].append({**annotation, "bbox": box})
            usable += not annotation["iscrowd"]
    return usable


def _image_of(entry: Any, images: Mapping[int, Json]) -> Json:
    if not isinstance(entry, dict):
        what = f"is {_shorten(entry)}, not an object"
        raise _Fault("annotations that are no objects", what, "every annotation must be an object")
    image_id = _integer(entry.get("image_id"))
    if image_id is None or image_id not in images:
        what = f"image_id {_shorten(entry.get('image_id'))} is not the id of an image"
        remedy = "remove annotations of images that are not in the file"
        raise _Fault("annotations of unknown images", what, remedy)
    return images[image_id]


def _checked_annotation(entry: Json, contiguous: Mapping[int, int], findings: Findings) -> Json:
    """Detectron2's form of an annotation."""
    category_id = _integer(entry.get("category_id"))
    if category_id is None or category_id not in contiguous:
        what = f"category_id {_shorten(entry.get('category_id'))} is not among the categories"
        remedy = "add the category, or remove its annotations"
        raise _Fault("annotations of unknown categories", what, remedy)
    crowd = entry.get("iscrowd")
    if crowd is None:
        findings.add("annotations without iscrowd (taken as 0)", severity="note")
        crowd = 0
    elif not isinstance(crowd, (int, float)) or crowd not in (0, 1):
        what = f"iscrowd is {_shorten(crowd)}"
        raise _Fault("annotations with an unusable iscrowd", what, "iscrowd must be 0 or 1")
    return {
        "bbox": _checked_box(entry.get("bbox"), "boxes are [x, y, width, height] in pixels"),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[category_id],
        "iscrowd": int(crowd),
    }


def _name_annotation(entry: Any, index: int, images: Mapping[int, Json]) -> str:
    if not isinstance(entry, dict) or "id" not in entry:
        where = f"annotations[{index}]"
    else:
        where = f"annotation {_shorten(entry['id'])}"
    with contextlib.suppress(_Fault):
        image = _image_of(entry, images)
        where += f" (image {image['image_id']}, {Path(image['file_name']).name!r})"
    return where


def _checked_box(box: Any, remedy: str, mode: BoxMode = BoxMode.XYWH_ABS) -> list[float]:
    """Four finite numbers of a box that has no negative size."""
    not_numbers = "boxes that are not four numbers"
    if box is None:
        raise _Fault(not_numbers, "bbox is missing", remedy)
    numbers = [_float(v) for v in box] if isinstance(box, (list, tuple, np.ndarray)) else []
    found = [v for v in numbers if v is not None]
    if len(numbers) != 4 or len(found) != 4:
        raise _Fault(not_numbers, f"bbox {_shorten(box)} is not four numbers", remedy)
    x, y, width, height = found
    if not all(map(math.isfinite, found)):
        raise _Fault("boxes that are not finite", f"bbox {_shorten(box)} is not finite", remedy)
    if mode == BoxMode.XYXY_ABS:
        width, height = width - x, height - y
    if width < 0 or height < 0:
        what = f"bbox {_shorten(box)} has a negative width or height"
        raise _Fault("boxes with a negative width or height", what, remedy)
    return found


def _clip_box(
    box: list[float], image_width: int, image_height: int
) -> tuple[list[float] | None, str | None]:
    """An XYWH box clipped to the image (None if no area is left), and what was repaired."""
    x, y, width, height = box
    if width == 0 or height == 0:
        return None, "boxes without area (dropped)"
    x0, y0 = max(x, 0.0), max(y, 0.0)
    x1, y1 = min(x + width, float(image_width)), min(y + height, float(image_height))
    if x1 <= x0 or y1 <= y0:
        return None, "boxes entirely outside their image (dropped)"
    over = max(x0 - x, y0 - y, x + width - x1, y + height - y1)
    if over == 0:
        return box, None
    clipped = [x0, y0, x1 - x0, y1 - y0]
    return clipped, "boxes clipped to their image" if over > _CLIP_TOLERANCE else None


def repair_for_evaluation(content: Json, findings: Findings) -> Json | None:
    """The content of checked annotations with what pycocotools needs; None if nothing is lacking.

    pycocotools fails without ``id``, ``iscrowd`` or ``area``, keeps one of several annotations with
    the same id, and takes an object with id 0 for one that was never found.
    """
    if "annotations" not in content:
        return None
    annotations: list[Json] = content["annotations"]
    ids = [_integer(a.get("id")) for a in annotations]
    bad_ids = sum(i is None or i == 0 for i in ids) + len(ids) - len(set(ids))
    if bad_ids:
        kind = "annotation ids missing, 0 or not unique (renumbered for evaluation)"
        findings.add(kind, severity="warning", count=bad_ids)
    bad_area = [not _has_usable_area(a) for a in annotations]
    if any(bad_area):
        kind = "annotations without a usable area (taken as width times height)"
        findings.add(kind, severity="note", count=sum(bad_area))
    crowd_is_complete = all(a.get("iscrowd") is not None for a in annotations)
    if not bad_ids and not any(bad_area) and crowd_is_complete and "info" in content:
        return None
    repaired = []
    for index, annotation in enumerate(annotations):
        annotation = {**annotation, "iscrowd": int(annotation.get("iscrowd") or 0)}
        if bad_ids:
            annotation["id"] = index + 1
        if bad_area[index]:
            annotation["area"] = float(annotation["bbox"][2]) * float(annotation["bbox"][3])
        repaired.append(annotation)
    return {"info": {}, **content, "annotations": repaired}


def _has_usable_area(annotation: Json) -> bool:
    area = _float(annotation.get("area"))
    return area is not None and 0 <= area < math.inf


@dataclass(frozen=True)
class DatasetSummary:
    """What a registered data set holds.

    Args:
        name: its name in the catalog.
        num_images, num_empty_images: images, and those without an annotation that can be trained
            on.
        num_crowd: crowd annotations, which are left out of training.
        max_objects: most other annotations in one image; a model needs at least that many queries.
        class_counts: annotations per class (without crowds), in the order of the classes.
    """

    name: str
    num_images: int
    num_empty_images: int
    num_crowd: int
    max_objects: int
    class_counts: dict[str, int]


def check_datasets(
    names: str | Sequence[str],
    *,
    require_annotations: bool = True,
    check_images: bool = True,
    decode: bool = False,
) -> list[DatasetSummary]:
    """Load registered data sets, builtin ones as well, and check their annotations and image files.

    To be called once, by the main process, before training starts.

    Args:
        names: names in Detectron2's catalog.
        require_annotations: whether a data set without any usable annotation is an error.
        check_images: whether to look at the image files, see ``check_image_files``.
        decode: whether to decode all images, which finds any damage but takes long.

    Raises:
        FileNotFoundError: if an annotation file is missing; for builtin data sets it names
            DETECTRON2_DATASETS.
        DatasetError: for an unknown name or bad data.
    """
    summaries = []
    for name in [names] if isinstance(names, str) else list(names):
        dicts = load_dataset(name)
        metadata = MetadataCatalog.get(name)
        class_names = metadata.get("thing_classes", None)
        source = metadata.get("json_file", f"data set {name!r}")
        summary = check_dataset_dicts(dicts, class_names, name=name, source=source)
        if require_annotations and not sum(summary.class_counts.values()):
            raise DatasetError(f"{source}: the data set {name!r} has no usable annotation at all")
        if check_images:
            check_image_files(dicts, source=source, decode=decode)
        summaries.append(summary)
    return summaries


def require_dataset(name: str) -> None:
    """Raise what ``load_dataset`` does if a name is unknown or its annotation file is missing."""
    if name not in DatasetCatalog.list():
        known = ", ".join(sorted(DatasetCatalog.list()))
        raise DatasetError(
            f"there is no data set {name!r}. Register it first "
            "(sap_detr.data.register_coco_folder for annotations in "
            "COCO format; in a config: dataset = L(register_coco_folder)(name=..., folder=...)). "
            f"Known: {known}"
        )
    json_file = MetadataCatalog.get(name).get("json_file", None)
    if json_file is not None and "://" not in json_file and not Path(json_file).is_file():
        root = os.environ.get("DETECTRON2_DATASETS")
        setting = f"it is {root!r}" if root else "it is not set, so ./datasets is used"
        raise FileNotFoundError(
            f"{Path(json_file).absolute()}, the annotations of data set {name!r}, is missing. The "
            "environment variable "
            "DETECTRON2_DATASETS names the folder in which Detectron2's builtin data sets lie "
            f"({setting})."
        )


def load_dataset(name: str) -> list[Json]:
    """The dicts of a data set in Detectron2's catalog.

    Raises:
        FileNotFoundError: if its annotation file is missing.
        DatasetError: if the name is unknown, or loading fails because of the annotations.
    """
    require_dataset(name)
    json_file = MetadataCatalog.get(name).get("json_file", None)
    try:
        dicts = DatasetCatalog.get(name)
    except (DatasetError, FileNotFoundError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise DatasetError(
            f"{json_file or name}: the data set {name!r} can't be loaded "
            f"({type(error).__name__}: {error}); check its annotations"
        ) from error
    if not dicts:
        raise DatasetError(f"{json_file or name}: the data set {name!r} has no images")
    return dicts


def check_dataset_dicts(
    dicts: Sequence[Json], class_names: Sequence[str] | None, *, name: str, source: str
) -> DatasetSummary:
    """Check Detectron2's standard dicts, wherever they come from.

    Args:
        dicts: one per image.
        class_names: names in the order of ``category_id``; None if they are not known.
        name, source: what to call the data set in the summary and in errors.

    Raises:
        DatasetError: if a file name is missing or an annotation has a bad box or class.
    """
    findings = Findings(source)
    summary = inspect_dataset_dicts(dicts, class_names, findings, name=name)
    findings.raise_errors()
    return summary


def inspect_dataset_dicts(
    dicts: Sequence[Json], class_names: Sequence[str] | None, findings: Findings, *, name: str
) -> DatasetSummary:
    """``check_dataset_dicts``, with what is wrong noted as errors among the findings."""
    counts: Counter[int] = Counter()
    num_crowd = num_empty = max_objects = 0
    for index, record in enumerate(dicts):
        file_name = record.get("file_name")
        if not isinstance(file_name, (str, os.PathLike)):
            example = Example(f"record {index}", "has no file_name")
            findings.add("unusable images", example, remedy="every record needs a file_name")
            continue
        num_objects = 0
        for number, annotation in enumerate(record.get("annotations", ())):
            try:
                category = _checked_class(annotation, class_names)
            except _Fault as fault:
                where = f"{name_image(record)}, annotation {number}"
                findings.add(fault.kind, Example(where, fault.what), remedy=fault.remedy)
                continue
            if annotation.get("iscrowd", 0):
                num_crowd += 1
            else:
                counts[category] += 1
                num_objects += 1
        num_empty += num_objects == 0
        max_objects = max(max_objects, num_objects)
    if class_names is None:
        class_names = [str(i) for i in range(max(counts, default=-1) + 1)]
    class_counts: Counter[str] = Counter()
    for index, class_name in enumerate(class_names):
        class_counts[class_name] += counts[index]
    return DatasetSummary(
        name=name,
        num_images=len(dicts),
        num_empty_images=num_empty,
        num_crowd=num_crowd,
        max_objects=max_objects,
        class_counts=dict(class_counts),
    )


def _checked_class(annotation: Json, class_names: Sequence[str] | None) -> int:
    """The class index of an annotation of a standard dict, after a look at its box."""
    mode = annotation.get("bbox_mode")
    if mode not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        remedy = "bbox_mode must be BoxMode.XYWH_ABS or BoxMode.XYXY_ABS"
        raise _Fault("boxes of an unknown mode", f"bbox_mode is {mode!r}", remedy)
    _checked_box(annotation.get("bbox"), "correct or remove these boxes", BoxMode(mode))
    category = _integer(annotation.get("category_id"))
    limit = math.inf if class_names is None else len(class_names)
    if category is None or not 0 <= category < limit:
        what = f"category_id is {_shorten(annotation.get('category_id'))}"
        remedy = f"class indices go from 0 to {limit - 1}"
        raise _Fault("annotations of unknown categories", what, remedy)
    return category


def check_image_files(
    dicts: Sequence[Json],
    *,
    source: str = "images",
    decode: bool = False,
    num_threads: int = 16,
) -> None:
    """Check that images exist, can be read, are complete, and have the size of the annotations.

    By default a file's header and its last bytes are read: enough for files that are empty, cut
    off, not images, or of another size. Names with a ``://`` are not looked at.

    Args:
        dicts: Detectron2's standard dicts.
        source: what to call the data set in errors.
        decode: decode every image as well, which finds any damage but takes long.
        num_threads: files that are read at the same time.

    Raises:
        DatasetError: names the first offending files and counts all.
    """
    findings = Findings(source)
    with ThreadPoolExecutor(num_threads) as pool:
        scan_image_files(dicts, findings, pool, decode=decode)
    findings.raise_errors()
