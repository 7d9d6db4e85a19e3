"""Finds bad data before training starts: in COCO annotations, registered data sets, image files."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import reprlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

logger = logging.getLogger(__name__)

Json = dict[str, Any]

MAX_LISTED_PROBLEMS = 10
# Pillow refuses to open larger images, as likely attacks.
MAX_IMAGE_PIXELS = 178_956_970

_EXIF_ORIENTATION = 0x0112
_EXIF_SIDEWAYS = (5, 6, 7, 8)
_TAIL_BYTES = 4096
_FILES_PER_TASK = 256
# Rounding in annotation files puts boxes over the border by less than this (pixels); it isn't worth
# a warning.
_CLIP_TOLERANCE = 0.05


_short_repr = reprlib.Repr()
_short_repr.maxstring = _short_repr.maxother = 100
_short_repr.maxlong = 30
_shorten = _short_repr.repr


class DatasetError(ValueError):
    """A data set can't be used as it is. The message says what is wrong, where, and what to do."""


class Problems:
    """Collects what is wrong with a data set: the first ones in words, the rest as a number."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.total = 0
        self.listed: list[str] = []
        self.remedies: list[str] = []

    def add(self, where: str, what: str, remedy: str) -> None:
        """Note one problem. Remedies are told once each."""
        self.total += 1
        if len(self.listed) < MAX_LISTED_PROBLEMS:
            self.listed.append(f"{where}: {what}")
            if remedy not in self.remedies:
                self.remedies.append(remedy)

    def raise_if_any(self) -> None:
        """Raises DatasetError if a problem was added."""
        if not self.total:
            return
        lines = [f"{self.source}: {self.total} problem{'s' if self.total > 1 else ''} found"]
        lines += [f"  - {problem}" for problem in self.listed]
        if self.total > len(self.listed):
            lines.append(f"  ... and {self.total - len(self.listed)} more")
        lines += [f"To do: {remedy}" for remedy in self.remedies]
        raise DatasetError("\n".join(lines))


class _Fault(Exception):
    """What is wrong with one entry, and what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
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
        area in the image
    (dropped), missing ``iscrowd`` (0) and ``area`` (width times height), annotation ids that
    evaluation can't use.

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
    return check_coco(
        content,
        os.fspath(json_file),
        os.fspath(image_root),
        require_annotations=require_annotations,
    )


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


def check_coco(
    content: Any, json_file: str, image_root: str, *, require_annotations: bool = True
) -> CheckedAnnotations:
    """The checks of ``check_coco_json`` on parsed json."""
    _check_sections(content, json_file, require_annotations)
    problems = Problems(json_file)
    repairs: Counter[str] = Counter()

    categories = _checked_categories(content["categories"], problems, repairs)
    category_ids = sorted(categories)
    images = _checked_images(content["images"], image_root, problems)
    contiguous = {category_id: index for index, category_id in enumerate(category_ids)}
    annotations = content.get("annotations", [])
    usable = _attach_annotations(annotations, images, contiguous, problems, repairs)
    problems.raise_if_any()
    if require_annotations and not usable:
        raise DatasetError(
            f"{json_file}: not one of its {len(annotations)} annotations can be used for training "
            "(crowd annotations "
            "and boxes without area in the image don't count). Check that this is the file you "
            "meant."
        )
    return CheckedAnnotations(
        json_file=json_file,
        image_root=image_root,
        class_names=[categories[category_id] for category_id in category_ids],
        category_ids=category_ids,
        dicts=[images[image_id] for image_id in sorted(images)],
        repairs=repairs,
        evaluation_json=_for_evaluation(content, repairs),
    )


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


def _checked_categories(
    entries: list[Any], problems: Problems, repairs: Counter[str]
) -> dict[int, str]:
    """Names by category id."""
    remedy = "every category needs an own integer id and a name"
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        where = f"categories[{index}]"
        if not isinstance(entry, dict):
            problems.add(where, f"is {_shorten(entry)}, not an object", remedy)
            continue
        category_id, name = _integer(entry.get("id")), entry.get("name")
        if category_id is None:
            problems.add(where, f"id is {_shorten(entry.get('id'))}, not an integer", remedy)
        elif not isinstance(name, str) or not name:
            problems.add(f"category {category_id}", f"name is {_shorten(name)}", remedy)
        elif category_id in names:
            what = f"the id is used twice, for {names[category_id]!r} and {name!r}"
            problems.add(f"category {category_id}", what, remedy)
        else:
            names[category_id] = name
    duplicates = len(names) - len(set(names.values()))
    if duplicates:
        repairs["categories with the name of another one (kept as classes of their own)"] = (
            duplicates
        )
    return names


def _checked_images(entries: list[Any], image_root: str, problems: Problems) -> dict[int, Json]:
    """Standard dicts, with no annotations yet, by image id."""
    remedy = "every image needs an own integer id, a file_name, and its height and width in pixels"
    images: dict[int, Json] = {}
    for index, entry in enumerate(entries):
        where = f"images[{index}]"
        if not isinstance(entry, dict):
            problems.add(where, f"is {_shorten(entry)}, not an object", remedy)
            continue
        image_id, name = _integer(entry.get("id")), entry.get("file_name")
        if image_id is None:
            problems.add(where, f"id is {_shorten(entry.get('id'))}, not an integer", remedy)
            continue
        if image_id in images:
            where = f"image {image_id} ({_shorten(name)})"
            other = os.path.relpath(images[image_id]["file_name"], image_root)
            problems.add(where, f"its id is that of {other!r} too", remedy)
            continue
        if not isinstance(name, str) or not name or "\0" in name:
            where = f"image {image_id} ({_shorten(name)})"
            problems.add(where, "file_name is not the name of a file", remedy)
            continue
        height, width = _integer(entry.get("height")), _integer(entry.get("width"))
        if height is None or width is None or height <= 0 or width <= 0:
            shown = f"height {_shorten(entry.get('height'))}, width {_shorten(entry.get('width'))}"
            where = f"image {image_id} ({_shorten(name)})"
            problems.add(where, f"{shown}: not two positive integers", remedy)
            height = width = 0
        elif height * width > MAX_IMAGE_PIXELS:
            where = f"image {image_id} ({_shorten(name)})"
            limit = f"images are limited to {MAX_IMAGE_PIXELS} pixels: scale larger ones down"
            problems.add(where, f"height {height}, width {width}: too large", limit)
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
    problems: Problems,
    repairs: Counter[str],
) -> int:
    """Put the annotations into their images' dicts; returns how many of them can be trained on."""
    usable = 0
    for index, entry in enumerate(entries):
        try:
            image = _image_of(entry, images)
            annotation = _checked_annotation(entry, contiguous, repairs)
        except _Fault as fault:
            problems.add(_name_annotation(entry, index, images), fault.what, fault.remedy)
            continue
        if not image["width"]:
            continue
        box, repair = _clip_box(annotation["bbox"], image["width"], image["height"])
        if repair is not None:
            repairs[repair] += 1
        if box is not None:
            image["annotations"].append({**annotation, "bbox": box})
            usable += not annotation["iscrowd"]
    return usable


def _image_of(entry: Any, images: Mapping[int, Json]) -> Json:
    if not isinstance(entry, dict):
        what = f"is {_shorten(entry)}, not an object"
        raise _Fault(what, "every annotation must be an object")
    image_id = _integer(entry.get("image_id"))
    if image_id is None or image_id not in images:
        what = f"image_id {_shorten(entry.get('image_id'))} is not the id of an image"
        raise _Fault(what, "remove annotations of images that are not in the file")
    return images[image_id]


def _checked_annotation(entry: Json, contiguous: Mapping[int, int], repairs: Counter[str]) -> Json:
    """Detectron2's form of an annotation."""
    category_id = _integer(entry.get("category_id"))
    if category_id is None or category_id not in contiguous:
        what = f"category_id {_shorten(entry.get('category_id'))} is not among the categories"
        raise _Fault(what, "add the category, or remove its annotations")
    crowd = entry.get("iscrowd")
    if crowd is None:
        repairs["annotations without iscrowd (taken as 0)"] += 1
        crowd = 0
    elif not isinstance(crowd, (int, float)) or crowd not in (0, 1):
        raise _Fault(f"iscrowd is {_shorten(crowd)}", "iscrowd must be 0 or 1")
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
    if box is None:
        raise _Fault("bbox is missing", remedy)
    numbers = [_float(v) for v in box] if isinstance(box, (list, tuple, np.ndarray)) else []
    found = [v for v in numbers if v is not None]
    if len(numbers) != 4 or len(found) != 4:
        raise _Fault(f"bbox {_shorten(box)} is not four numbers", remedy)
    x, y, width, height = found
    if not all(map(math.isfinite, found)):
        raise _Fault(f"bbox {_shorten(box)} is not finite", remedy)
    if mode == BoxMode.XYXY_ABS:
        width, height = width - x, height - y
    if width < 0 or height < 0:
        raise _Fault(f"bbox {_shorten(box)} has a negative width or height", remedy)
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


def _for_evaluation(content: Json, repairs: Counter[str]) -> Json | None:
    """The content with what pycocotools needs; None if nothing is lacking.

    pycocotools fails without ``id``, ``iscrowd`` or ``area``, keeps one of several annotations with
    the same id, and takes an object with id 0 for one that was never found.
    """
    if "annotations" not in content:
        return None
    annotations: list[Json] = content["annotations"]
    ids = [_integer(a.get("id")) for a in annotations]
    bad_ids = sum(i is None or i == 0 for i in ids) + len(ids) - len(set(ids))
    if bad_ids:
        repairs["annotation ids missing, 0 or not unique (renumbered for evaluation)"] += bad_ids
    bad_area = [not _has_usable_area(a) for a in annotations]
    if any(bad_area):
        repairs["annotations without a usable area (taken as width times height)"] += sum(bad_area)
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
    problems = Problems(source)
    counts: Counter[int] = Counter()
    num_crowd = num_empty = max_objects = 0
    for index, record in enumerate(dicts):
        file_name = record.get("file_name")
        if not isinstance(file_name, (str, os.PathLike)):
            problems.add(f"record {index}", "has no file_name", "every record needs a file_name")
            continue
        num_objects = 0
        for number, annotation in enumerate(record.get("annotations", ())):
            try:
                category = _checked_class(annotation, class_names)
            except _Fault as fault:
                where = f"{_name_image(record)}, annotation {number}"
                problems.add(where, fault.what, fault.remedy)
                continue
            if annotation.get("iscrowd", 0):
                num_crowd += 1
            else:
                counts[category] += 1
                num_objects += 1
        num_empty += num_objects == 0
        max_objects = max(max_objects, num_objects)
    problems.raise_if_any()
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
        raise _Fault(f"bbox_mode is {mode!r}", remedy)
    _checked_box(annotation.get("bbox"), "correct or remove these boxes", BoxMode(mode))
    category = _integer(annotation.get("category_id"))
    limit = math.inf if class_names is None else len(class_names)
    if category is None or not 0 <= category < limit:
        what = f"category_id is {_shorten(annotation.get('category_id'))}"
        raise _Fault(what, f"class indices go from 0 to {limit - 1}")
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
    problems = Problems(source)
    records = [d for d in dicts if "://" not in str(d["file_name"])]
    existing = _existing_records(records, problems)

    def inspect(chunk: Sequence[Json]) -> list[tuple[str, str, str]]:
        found = []
        for record in chunk:
            fault = _image_fault(record, decode)
            if fault is not None:
                found.append((_name_image(record), *fault))
        return found

    chunks = [existing[i : i + _FILES_PER_TASK] for i in range(0, len(existing), _FILES_PER_TASK)]
    with ThreadPoolExecutor(num_threads) as pool:
        for faults in pool.map(inspect, chunks):
            for where, what, remedy in faults:
                problems.add(where, what, remedy)
    problems.raise_if_any()


def _name_image(record: Json) -> str:
    return f"image {record.get('image_id')!r} ({str(record['file_name'])!r})"


def _existing_records(records: Sequence[Json], problems: Problems) -> list[Json]:
    """The records whose files exist.

    Every folder is listed once: asking for each file is slow on network disks.
    """
    remedy = "check the folder of the images in the config, and that all images were copied"
    by_folder: dict[str, list[Json]] = defaultdict(list)
    for record in records:
        by_folder[str(Path(record["file_name"]).parent)].append(record)
    existing: list[Json] = []
    for folder, members in by_folder.items():
        try:
            with os.scandir(folder) as entries:
                names = {entry.name for entry in entries}
        except OSError as error:
            reason = error.strerror
            what = f"the folder can't be listed ({reason}); {len(members)} images should be in it"
            problems.add(folder, what, remedy)
            continue
        missing: list[Json] = []
        for record in members:
            found = Path(record["file_name"]).name in names
            (existing if found else missing).append(record)
        lower = {name.lower(): name for name in names} if missing else {}
        for record in missing:
            similar = lower.get(Path(record["file_name"]).name.lower())
            hint = f", but there is {similar!r}" if similar else ""
            problems.add(_name_image(record), f"there is no such file{hint}", remedy)
    return existing


def _image_fault(record: Json, decode: bool) -> tuple[str, str] | None:
    """What is wrong with an image file, and what to do about it."""
    path = Path(record["file_name"])
    replace = "replace or remove these images (and their annotations)"
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            length = os.fstat(file.fileno()).st_size
            if length == 0:
                return "the file is empty", replace
            with Image.open(file) as image:
                stored, orientation, kind = image.size, _exif_orientation(image), image.format
                file.seek(max(0, length - _TAIL_BYTES))
                complete = _ends_properly(kind, file.read())
        if decode or not complete:
            with Image.open(path) as image:
                image.load()
    except Image.DecompressionBombError:
        return f"more than {MAX_IMAGE_PIXELS} pixels", "scale these images down"
    except Image.UnidentifiedImageError:
        return "not an image, or of a format that Pillow can't read", replace
    except (OSError, ValueError, SyntaxError) as error:
        return f"damaged or cut off ({error})", replace
    actual = stored[::-1] if orientation in _EXIF_SIDEWAYS else stored
    declared = (record.get("width", actual[0]), record.get("height", actual[1]))
    if actual == declared:
        return None
    what = (
        f"the image is {actual[0]}x{actual[1]} (width x height), "
        f"the annotations say {declared[0]}x{declared[1]}"
    )
    if stored == declared:
        what += f"; EXIF orientation {orientation} turns it, and Detectron2 reads images turned"
        return what, "store these images upright without EXIF orientation, or annotate them turned"
    return what, "correct height and width, or use the images that were annotated"


def _exif_orientation(image: Image.Image) -> int:
    # Pillow decodes a whole PNG to look for EXIF data behind the pixels.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        # Detectron2, too, reads an image with broken EXIF data as it is stored.
        return 1


def _ends_properly(kind: str | None, tail: bytes) -> bool:
    """Whether the last bytes hold the mark that ends an image; else it is decoded to find out."""
    if kind in ("JPEG", "MPO"):
        return b"\xff\xd9" in tail
    if kind == "PNG":
        return b"IEND" in tail
    return False
