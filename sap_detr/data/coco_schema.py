"""COCO's detection format: every entry is checked and becomes Detectron2's standard dict.

Other formats come here as COCO's, see :mod:`sap_detr.data.records`.

What can be used is used and what is wrong is noted, see :mod:`sap_detr.data.findings`. Repaired on
the way: boxes that reach over the border (clipped), boxes without area in the image (dropped), and
missing ``iscrowd`` (0).
"""

from __future__ import annotations

import contextlib
import gc
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from detectron2.structures import BoxMode

from ..text import listing, shorten
from .annotation_file import as_integer, is_plain_utf8, read_json
from .boxes import Fault, check_box, clip_box, suspect_form
from .errors import DatasetError
from .evaluation_file import needs_repair, with_categories
from .findings import Findings, Kind
from .images import too_many_pixels
from .records import Place, Records, SplitFiles
from .standard_dict import StandardDict, require_objects

Entry = dict[str, Any]


@dataclass(frozen=True)
class CocoAnnotations:
    """What can be used of an annotation file.

    Args:
        json_file: what was read.
        categories: names by category id, ascending; the class index of an id is its place here.
            Those of the training data if these were given.
        dicts: standard dicts in the order of image ids; boxes XYWH in pixels, clipped to the image.
            Crowd annotations are among them.
        findings: what is wrong, and what was repaired. If there are errors, entries are lacking.
        to_repair: the file's json, with the ids of ``categories``, if COCO evaluation can't use the
            file itself, else None; see :mod:`sap_detr.data.evaluation_file`.
    """

    json_file: str
    categories: dict[int, str]
    dicts: list[StandardDict]
    findings: Findings
    to_repair: Entry | None = None

    @property
    def class_names(self) -> list[str]:
        """Return the names in the order of the class indices."""
        return list(self.categories.values())


@dataclass(frozen=True)
class CocoFile:
    """A split whose annotations are one file in COCO's detection format.

    Args:
        path: the file.
        image_root: folder that ``file_name`` is relative to.
    """

    path: Path
    image_root: Path
    format: ClassVar[str] = "COCO format"

    def records(self) -> Records:
        """Read the file.

        Raises:
            FileNotFoundError: if there is no such file.
            DatasetError: if it is no json.
        """
        content, plain = read_json(self.path), is_plain_utf8(self.path)
        findings = Findings(str(self.path))
        if not plain:
            findings.add(Kind.ENCODING)
        return Records(content, findings, is_file=plain)


def read_split(
    split: SplitFiles, *, training: bool = True, categories: Mapping[int, str] | None = None
) -> CocoAnnotations:
    """Read a split of any format and check all of it.

    Args:
        split: where it lies.
        training: False for images without known objects, which can be used for inference only.
        categories: of the training data, if others are to be matched with these by name.

    Raises:
        FileNotFoundError: if a file is missing without which nothing can be read.
        DatasetError: if nothing can be made of it. Anything else is among the findings.
    """
    with _no_garbage():
        records = split.records()
        annotations = parse_coco(
            records.content,
            str(split.path),
            str(split.image_root),
            training=training,
            categories=categories,
            findings=records.findings,
            places=records.places,
        )
    if records.is_file or annotations.findings.of("error"):
        return annotations
    return replace(annotations, to_repair=annotations.to_repair or records.content)


def read_coco(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    training: bool = True,
    categories: Mapping[int, str] | None = None,
) -> CocoAnnotations:
    """Read an annotation file in COCO's detection format and check all of it.

    Args:
        json_file: path of the annotations.
        image_root: folder that ``file_name`` is relative to. The images are not looked at.
        training: False for images without known objects, which can be used for inference only.
        categories: of the training data, if others are to be matched with these by name.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is no json, or not in COCO's detection format at all. Anything else is
            among the findings.
    """
    files = CocoFile(Path(json_file), Path(image_root))
    return read_split(files, training=training, categories=categories)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Keep Python from looking, again and again, at millions of new objects for circles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parse_coco(
    content: Any,
    json_file: str,
    image_root: str,
    *,
    training: bool = True,
    categories: Mapping[int, str] | None = None,
    findings: Findings | None = None,
    places: Sequence[Place] = (),
) -> CocoAnnotations:
    """Do what ``read_coco`` does with parsed json.

    Args:
        content: the json.
        json_file, image_root, training, categories: as of ``read_coco``.
        findings: what is known to be wrong already.
        places: of each annotation; empty to name them by their ids.
    """
    _require_sections(content, json_file, training)
    findings = findings or Findings(json_file)
    own, unusable = _read_categories(content["categories"], findings)
    categories = dict(categories or own)
    ids = _match_categories(own, categories, findings)
    images, unusable_images = _read_images(content["images"], image_root, findings)
    contiguous: dict[int | None, int] = {c: index for index, c in enumerate(categories)}
    classes = {own_id: contiguous.get(other) for own_id, other in ids.items()}
    entries = content.get("annotations", [])
    sound = (
        (index, entry)
        for index, entry in enumerate(entries)
        if not _refers(entry, "image_id", unusable_images)
        and not _refers(entry, "category_id", unusable)
    )
    _read_annotations(sound, entries, images, classes, findings, places)
    dicts = [images[image_id] for image_id in sorted(images)]
    to_repair = None
    if not findings.of("error"):
        require_objects(dicts, findings, training)
        if own != categories:
            to_repair = with_categories(content, categories, ids)
        if needs_repair(content, findings):
            to_repair = to_repair or content
    return CocoAnnotations(json_file, categories, dicts, findings, to_repair)


def _require_sections(content: Any, json_file: str, training: bool) -> None:
    if not isinstance(content, dict):
        raise DatasetError(
            f"{json_file}: not COCO's detection format: it holds a {type(content).__name__}, not "
            "an object with the lists images, annotations, categories. Convert the annotations to "
            "COCO format."
        )
    for key in ("images", "annotations", "categories"):
        if key == "annotations" and key not in content and not training:
            continue
        if not isinstance(content.get(key), list):
            found = f"is a {type(content[key]).__name__}" if key in content else "is missing"
            raise DatasetError(
                f"{json_file}: not COCO's detection format: the list {key!r} {found}; found the "
                f"keys {shorten(sorted(content))}. Convert the annotations to COCO format."
            )
        if not content[key] and key != "annotations":
            raise DatasetError(f"{json_file}: the list {key!r} is empty: there is nothing to use")


def _refers(entry: Any, key: str, ids: set[str]) -> bool:
    """Say whether an annotation refers to an entry that is an error already."""
    return bool(ids) and isinstance(entry, dict) and _plain(entry.get(key)) in ids


def _plain(value: Any) -> str:
    """Return what tells ids of any type apart, and not 1 from 1.0."""
    number = as_integer(value)
    return repr(value if number is None else number)


def _read_categories(entries: list[Any], findings: Findings) -> tuple[dict[int, str], set[str]]:
    """Return names by category id, ascending; and the ids of entries that can't be used."""
    unusable: set[str] = set()
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        where = f"categories[{index}]"
        try:
            category_id = _read_id(entry, Kind.UNUSABLE_CATEGORY)
            where, name = f"category {category_id}", entry.get("name")
            if not isinstance(name, str) or not name:
                raise Fault(Kind.UNUSABLE_CATEGORY, f"name is {shorten(name)}")
            if category_id in names:
                what = f"the id is used twice, for {names[category_id]!r} and {name!r}"
                raise Fault(Kind.UNUSABLE_CATEGORY, what)
            names[category_id] = name
        except Fault as fault:
            findings.add(fault.kind, where, fault.what)
            _note_id(entry, unusable)
    duplicates = len(names) - len(set(names.values()))
    if duplicates:
        findings.add(Kind.SAME_NAME, count=duplicates)
    return dict(sorted(names.items())), unusable


def _note_id(entry: Any, unusable: set[str]) -> None:
    if isinstance(entry, dict) and "id" in entry:
        given = entry["id"]
        unusable.add(_plain(given))
        if isinstance(given, str) and given.isdecimal():
            unusable.add(given.lstrip("0") or "0")


def _match_categories(
    own: Mapping[int, str], categories: Mapping[int, str], findings: Findings
) -> dict[int, int | None]:
    """Return the id among ``categories`` of the name of each own id; None if it is not there."""
    if own == categories:
        return {category_id: category_id for category_id in own}
    ids = {name: category_id for category_id, name in categories.items()}
    matched = {own_id: ids.get(name) for own_id, name in own.items()}
    for names in (own.values(), categories.values()):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            what = f"{listing(twice)}: used for several categories, which can't be told apart"
            findings.add(Kind.DIFFERENT_CLASSES, "", what, count=len(twice))
            return matched
    moved = [own[i] for i, other in matched.items() if other is not None and i != other]
    if moved:
        findings.add(Kind.OTHER_IDS, "", listing(moved), count=len(moved))
    return matched


def _read_images(
    entries: list[Any], image_root: str, findings: Findings
) -> tuple[dict[int, StandardDict], set[str]]:
    """Return standard dicts, with no annotations yet, by image id; and the ids of unusable ones."""
    unusable: set[str] = set()
    images: dict[int, StandardDict] = {}
    for index, entry in enumerate(entries):
        where = f"images[{index}]"
        try:
            image_id = _read_id(entry, Kind.UNUSABLE_IMAGE)
            name = entry.get("file_name")
            where = f"image {image_id} ({shorten(name)})"
            if image_id in images:
                other = os.path.relpath(images[image_id]["file_name"], image_root)
                raise Fault(Kind.REPEATED_IMAGE_ID, f"its id is that of {other!r} too")
            if not isinstance(name, str) or not name or "\0" in name:
                raise Fault(Kind.UNUSABLE_IMAGE, "file_name is not the name of a file")
        except Fault as fault:
            findings.add(fault.kind, where, fault.what)
            _note_id(entry, unusable)
            continue
        height, width = as_integer(entry.get("height")), as_integer(entry.get("width"))
        if height is None or width is None or height <= 0 or width <= 0:
            given = f"height {shorten(entry.get('height'))}, width {shorten(entry.get('width'))}"
            findings.add(Kind.NO_IMAGE_SIZE, where, f"{given}: not two positive integers")
            height = width = 0
        elif too_large := too_many_pixels(width, height):
            findings.add(Kind.TOO_LARGE, where, too_large)
        images[image_id] = {
            "file_name": str(Path(image_root, name)),
            "height": height,
            "width": width,
            "image_id": image_id,
            "annotations": [],
        }
    return images, unusable


def _read_id(entry: Any, kind: Kind) -> int:
    if not isinstance(entry, dict):
        raise Fault(kind, f"is {shorten(entry)}, not an object")
    found = as_integer(entry.get("id"))
    _refuse_text(entry, "id")
    if found is None:
        raise Fault(kind, f"id is {shorten(entry.get('id'))}, not an integer")
    return found


def _refuse_text(entry: Entry, key: str) -> None:
    if isinstance(entry.get(key), str):
        raise Fault(Kind.TEXT_ID, f"{key} is {shorten(entry[key])}, which is text, not an integer")


def _read_annotations(
    numbered: Iterable[tuple[int, Any]],
    entries: Sequence[Any],
    images: Mapping[int, StandardDict],
    classes: Mapping[int, int | None],
    findings: Findings,
    places: Sequence[Place],
) -> None:
    """Put the annotations into their images' dicts.

    Args:
        numbered: those of the entries that are to be read, each with its place among them.
        entries: the annotations of the file.
        images: standard dicts by image id.
        classes: class index by category id; None if training does not know the class.
        findings: gets what is wrong.
        places: as of ``parse_coco``.
    """

    def name(index: int) -> str:
        entry, place = entries[index], places[index] if places else None
        return _name_annotation(entry, index, images, place)

    # Millions of entries: side by side in arrays they take a third of what tuples do.
    image_of: list[StandardDict] = []
    read: list[Entry] = []
    indices = array("q")
    for index, entry in numbered:
        try:
            image, annotation = _image_of(entry, images), _read_annotation(entry, classes, findings)
        except Fault as fault:
            findings.add(fault.kind, name(index), fault.what)
            continue
        image_of.append(image)
        read.append(annotation)
        indices.append(index)
    count = len(read)
    numbers = chain.from_iterable(annotation["bbox"] for annotation in read)
    boxes = np.fromiter(numbers, np.float64, 4 * count).reshape(count, 4)
    numbers = chain.from_iterable((image["width"], image["height"]) for image in image_of)
    sizes = np.fromiter(numbers, np.float64, 2 * count).reshape(count, 2)
    suspected = suspect_form(boxes, sizes, findings)
    for image, index, annotation in zip(image_of, indices, read, strict=True):
        if not image["width"]:
            continue
        given = annotation["bbox"]
        annotation["bbox"], repaired = clip_box(given, image["width"], image["height"])
        if repaired is not None and not suspected:
            where = name(index)
            size = f"{image['width']}x{image['height']} (width x height)"
            what = f"bbox {shorten(given)} in an image of {size}"
            findings.add(repaired, where, what, (image["file_name"],), (tuple(given),))
        if annotation["bbox"] is not None:
            image["annotations"].append(annotation)


def _image_of(entry: Any, images: Mapping[int, StandardDict]) -> StandardDict:
    if not isinstance(entry, dict):
        raise Fault(Kind.NOT_AN_OBJECT, f"is {shorten(entry)}, not an object")
    _refuse_text(entry, "image_id")
    image_id = as_integer(entry.get("image_id"))
    if image_id is None or image_id not in images:
        what = f"image_id {shorten(entry.get('image_id'))} is not the id of an image"
        raise Fault(Kind.UNKNOWN_IMAGE, what)
    return images[image_id]


def _read_annotation(entry: Entry, classes: Mapping[int, int | None], findings: Findings) -> Entry:
    """Return Detectron2's form of an annotation."""
    _refuse_text(entry, "category_id")
    category_id = as_integer(entry.get("category_id"))
    if category_id is None or category_id not in classes:
        what = f"category_id {shorten(entry.get('category_id'))} is not among the categories"
        raise Fault(Kind.UNKNOWN_CATEGORY, what)
    class_index = classes[category_id]
    if class_index is None:
        what = f"category_id {category_id} is a class that the training data does not have"
        raise Fault(Kind.NOT_A_TRAINED_CLASS, what)
    crowd = entry.get("iscrowd")
    if crowd is None:
        findings.add(Kind.NO_CROWD)
        crowd = 0
    elif not isinstance(crowd, (int, float)) or crowd not in (0, 1):
        raise Fault(Kind.UNUSABLE_CROWD, f"iscrowd is {shorten(crowd)}")
    return {
        "bbox": check_box(entry.get("bbox")),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": class_index,
        "iscrowd": int(crowd),
    }


def _name_annotation(
    entry: Any, index: int, images: Mapping[int, StandardDict], place: Place | None
) -> str:
    if not isinstance(entry, dict):
        return f"annotations[{index}]"
    where = f"annotation {shorten(entry['id'])}" if "id" in entry else f"annotations[{index}]"
    if place is not None:
        where = str(place)
    image_id = as_integer(entry.get("image_id"))
    if image_id is None or image_id not in images:
        return where
    image = images[image_id]
    return f"{where} (image {image['image_id']}, {Path(image['file_name']).name!r})"
