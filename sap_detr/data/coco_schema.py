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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..text import listing, shorten
from .annotation_file import as_integer, is_plain_utf8, read_json
from .boxes import Fault, check_box, clip_boxes, suspect_form
from .errors import DatasetError
from .evaluation_file import complete, with_categories
from .findings import Findings, Kind
from .images import too_many_pixels
from .record_arrays import RecordArrays
from .records import Place, Records, SplitFiles
from .standard_dict import StandardDict, require_objects
from .typed_annotations import NotPlain, read_typed, typed_rows

Entry = dict[str, Any]
Rows = NDArray[np.float64]
"""Annotations (N, 8), checked but for their place in the image: the place in the file, that of the
image in the order of ids, the class index, 1 for crowds, and the box, XYWH in pixels."""

# (annotation file, image folder) relative to the data set's folder, in order of preference.
_LAYOUTS = (
    ("{split}.json", "{split}"),
    ("annotations/instances_{split}2017.json", "{split}2017"),
    ("annotations/instances_{split}2017.json", "images/{split}2017"),
    ("annotations/instances_{split}.json", "{split}"),
    ("annotations/instances_{split}.json", "images/{split}"),
    ("annotations/{split}.json", "{split}"),
    ("annotations/{split}.json", "images/{split}"),
    ("{split}/_annotations.coco.json", "{split}"),
)
LOOKED_FOR = tuple(f"{file} with {folder}/" for file, folder in _LAYOUTS)
LOOKED_FOR_WHOLE = (
    "one .json file with all images, in the folder or in annotations/, and its images",
)


@dataclass(frozen=True)
class CocoAnnotations:
    """What can be used of an annotation file.

    Args:
        json_file: what was read.
        categories: names by category id, ascending; the class index of an id is its place here.
            Those of the training data if these were given.
        records: standard dicts in the order of image ids; boxes XYWH in pixels, clipped to the
            image. Crowd annotations are among them.
        findings: what is wrong, and what was repaired. If there are errors, entries are lacking.
        for_evaluation: json with the ids of ``categories`` for COCO evaluation, if that can't use
            the file itself, else None; see :mod:`sap_detr.data.evaluation_file`.
        evaluation_file: that json, once it is written.
    """

    json_file: str
    categories: dict[int, str]
    records: RecordArrays
    findings: Findings
    for_evaluation: Entry | None = None
    evaluation_file: str | None = None

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


def find_split(root: Path, split: str) -> CocoFile | None:
    """Return a split of a folder, None if it has none of this name in this format."""
    for json_pattern, images_pattern in _LAYOUTS:
        json_file, images = (root / p.format(split=split) for p in (json_pattern, images_pattern))
        if json_file.is_file() and images.is_dir():
            return CocoFile(json_file, images)
    return None


def find_whole(root: Path) -> CocoFile | None:
    """Return all images of a folder without splits, None if that is not how it is."""
    files = [file for folder in (root, root / "annotations") for file in folder.glob("*.json")]
    if len(files) != 1 or any(word in files[0].stem.lower() for word in ("val", "test")):
        return None
    (file,) = files
    # Broken files are told of where they are read.
    with contextlib.suppress(DatasetError, LookupError, TypeError, AttributeError):
        name = read_json(file)["images"][0]["file_name"]
        for folder in (root / "images", root / file.stem, file.parent, root):
            if (folder / name).is_file():
                return CocoFile(file, folder)
    return CocoFile(file, root / "images") if (root / "images").is_dir() else None


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
    parse = partial(
        parse_coco,
        json_file=str(split.path),
        image_root=str(split.image_root),
        training=training,
        categories=categories,
    )
    with _no_garbage():
        if isinstance(split, CocoFile):
            with contextlib.suppress(NotPlain):
                content, numbers, boxes = read_typed(split.path)
                return parse(content, typed=(numbers, boxes))
        records = split.records()
        read = parse(records.content, findings=records.findings, places=records.places)
    if records.is_file or read.findings.of("error"):
        return read
    return replace(read, for_evaluation=read.for_evaluation or records.content)


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
    typed: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
) -> CocoAnnotations:
    """Do what ``read_split`` does with parsed json.

    Args:
        content: the json.
        json_file: where it was read, for messages.
        image_root: folder that ``file_name`` is relative to. The images are not looked at.
        training, categories: as of ``read_split``.
        findings: what is known to be wrong already.
        places: of each annotation; empty to name them by their ids.
        typed: the annotations, as of ``read_typed``, if these are not in ``content``.

    Raises:
        DatasetError: as ``read_split``.
        NotPlain: if the typed ones won't do.
    """
    _require_sections(content, json_file, training)
    findings = findings or Findings(json_file)
    own, unusable = _read_categories(content["categories"], findings)
    categories = dict(categories or own)
    ids = _match_categories(own, categories, findings)
    images, unusable_images = _read_images(content["images"], image_root, findings)
    if typed is not None and (own != categories or findings.of("error")):
        raise NotPlain
    contiguous: dict[int | None, int] = {c: index for index, c in enumerate(categories)}
    classes = {own_id: contiguous.get(other) for own_id, other in ids.items()}
    image_ids = sorted(images)
    entries = content.get("annotations", [])

    def name(index: int) -> str:
        if typed is not None:
            entry = {"id": int(typed[0][0, index]), "image_id": int(typed[0][1, index])}
        else:
            entry = entries[index]
        return _name_annotation(entry, index, images, places[index] if places else None)

    if typed is not None:
        rows = typed_rows(*typed, image_ids, classes)
    else:
        sound = (
            (index, entry)
            for index, entry in enumerate(entries)
            if not _refers(entry, "image_id", unusable_images)
            and not _refers(entry, "category_id", unusable)
        )
        by_id = {image_id: place for place, image_id in enumerate(image_ids)}
        rows = _read_annotations(sound, images, by_id, classes, findings, name)
    dicts = _clipped(rows, [images[image_id] for image_id in image_ids], findings, name)
    completed = content
    if not findings.of("error"):
        require_objects(dicts, findings, training)
        if own != categories:
            completed = with_categories(content, categories, ids)
        if typed is None:
            completed = complete(completed, findings)
    for_evaluation = None if completed is content else completed
    return CocoAnnotations(json_file, categories, dicts, findings, for_evaluation)


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
    """Return standard dicts without annotations by image id; and the ids of unusable ones."""
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
    images: Mapping[int, StandardDict],
    places: Mapping[int, int],
    classes: Mapping[int, int | None],
    findings: Findings,
    name: Callable[[int], str],
) -> Rows:
    """Return the annotations that can be used, see :data:`Rows`.

    Args:
        numbered: entries of the file, each with its place among them.
        images: standard dicts by image id.
        places: of the image ids, ascending.
        classes: class index by category id; None if training does not know the class.
        findings: gets what is wrong.
        name: returns what to call an entry.
    """
    # Millions of entries: side by side they take a tenth of what dicts do.
    rows = array("d")
    for index, entry in numbered:
        try:
            image_id = _image_of(entry, images)
            class_and_crowd = _read_annotation(entry, classes, findings)
            box = check_box(entry.get("bbox"))
        except Fault as fault:
            findings.add(fault.kind, name(index), fault.what)
            continue
        rows.extend((index, places[image_id], *class_and_crowd, *box))
    return np.array(rows, np.float64).reshape(-1, 8)


def _clipped(
    rows: Rows, images: Sequence[StandardDict], findings: Findings, name: Callable[[int], str]
) -> RecordArrays:
    """Put boxes into their images, as far as they lie in them.

    Args:
        rows: what was annotated.
        images: in the order of their ids.
        findings: gets what is repaired.
        name: returns what to call an entry of the file.
    """
    index, image_of, classes, crowds = rows[:, :4].astype(np.int64).T
    given = rows[:, 4:]
    sizes = np.array([(image["width"], image["height"]) for image in images], np.float64)
    sizes = sizes.reshape(-1, 2)[image_of]
    suspected = suspect_form(given, sizes, findings)
    boxes, repaired = clip_boxes(given, sizes)
    used = sizes[:, 0] > 0
    for place, kind in repaired.items():
        image, as_given = images[image_of[place]], tuple(given[place].tolist())
        if used[place] and not suspected:
            size = f"{image['width']}x{image['height']} (width x height)"
            box = ", ".join(f"{number:.10g}" for number in as_given)
            what = f"bbox [{box}] in an image of {size}"
            where = name(int(index[place]))
            findings.add(kind, where, what, (image["file_name"],), (as_given,))
        used[place] &= kind is Kind.BOX_CLIPPED
    crowds = crowds.astype(np.uint8)
    return RecordArrays.of(images, image_of[used], boxes[used], classes[used], crowds[used])


def _image_of(entry: Any, images: Mapping[int, StandardDict]) -> int:
    if not isinstance(entry, dict):
        raise Fault(Kind.NOT_AN_OBJECT, f"is {shorten(entry)}, not an object")
    _refuse_text(entry, "image_id")
    image_id = as_integer(entry.get("image_id"))
    if image_id is None or image_id not in images:
        what = f"image_id {shorten(entry.get('image_id'))} is not the id of an image"
        raise Fault(Kind.UNKNOWN_IMAGE, what)
    return image_id


def _read_annotation(
    entry: Entry, classes: Mapping[int, int | None], findings: Findings
) -> tuple[int, int]:
    """Return the class index of an annotation, and whether it is a crowd."""
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
    return class_index, int(crowd)


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
