"""What follows from a cause is not reported beside it, and the message leads to the cause."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sap_detr.data.coco_schema import CocoFile
from sap_detr.data.inspection import Inspection, Source, inspect

Coco = dict[str, Any]
Write = Callable[..., tuple[Path, Path]]


def _inspect(*files: tuple[Path, Path]) -> Inspection:
    sources = [
        Source(f"split{i}", CocoFile(*paths), training=i == 0) for i, paths in enumerate(files)
    ]
    with ThreadPoolExecutor(2) as pool:
        return inspect(sources, pool)


def _found(inspection: Inspection) -> dict[str, int]:
    return {f.kind.name: f.count for found in inspection.all_findings() for f in found.of()}


def _change(files: tuple[Path, Path], change: Callable[[Coco], object]) -> None:
    content = json.loads(files[0].read_text())
    change(content)
    files[0].write_text(json.dumps(content))


def _as_text(*keys: tuple[str, str]) -> Callable[[Coco], object]:
    def change(content: Coco) -> None:
        for section, key in keys:
            for entry in content[section]:
                entry[key] = str(entry[key])

    return change


IMAGE, CATEGORY = ("images", "id"), ("categories", "id")
IMAGE_OF, CATEGORY_OF = ("annotations", "image_id"), ("annotations", "category_id")


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ((IMAGE, IMAGE_OF), 3),
        ((IMAGE,), 3),
        ((IMAGE_OF,), 3),
        ((CATEGORY, CATEGORY_OF), 2),
        ((CATEGORY,), 2),
        ((CATEGORY_OF,), 3),
        ((IMAGE, IMAGE_OF, CATEGORY, CATEGORY_OF), 5),
    ],
)
def test_ids_that_are_text(write_coco: Write, keys: Any, count: int) -> None:
    files = write_coco()
    _change(files, _as_text(*keys))
    inspection = _inspect(files)
    assert _found(inspection) == {"TEXT_ID": count}
    (message,) = inspection.splits[0].findings.messages("error")
    assert "which is text, not an integer" in message
    assert "To do: write ids as integers, without quotes" in message
    assert "remove" not in message


@pytest.mark.parametrize(
    ("section", "key", "value", "kind"),
    [
        ("images", "id", None, "UNUSABLE_IMAGE"),
        ("images", "file_name", 3, "UNUSABLE_IMAGE"),
        ("images", "height", None, "NO_IMAGE_SIZE"),
        ("categories", "name", None, "UNUSABLE_CATEGORY"),
    ],
)
def test_annotations_of_what_is_unusable_are_no_errors_of_their_own(
    write_coco: Write, section: str, key: str, value: Any, kind: str
) -> None:
    files = write_coco()
    _change(files, lambda content: content[section][0].update({key: value}))
    val = write_coco(json_name="data/val.json", images_name="data/val")
    found = _found(_inspect(files, val))
    # Only that the pictures of both splits are the same.
    found.pop("TRAINED_AND_EVALUATED", None)
    if key == "id":
        # Whose annotations these are can't be known.
        assert found.pop("UNKNOWN_IMAGE") == 2
    assert found == {kind: 1}


def test_entries_are_named_by_their_place(write_coco: Write) -> None:
    files = write_coco()

    def change(content: Coco) -> None:
        content["images"][0]["file_name"] = ""
        del content["annotations"][2]["id"]
        content["annotations"][2]["bbox"] = None

    _change(files, change)
    text = "\n".join(_inspect(files).splits[0].findings.messages("error"))
    assert "annotations[2]" in text


@pytest.mark.parametrize(
    ("lying", "written"),
    [
        ("b/käse 1.jpg", "b\\käse 1.jpg"),
        ("käse 1.jpg", "images\\käse 1.jpg"),
        ("b/käse 1.jpg", "käse 1.jpg"),
        ("b/käse 1.jpg", "a/c/b/käse 1.jpg"),
        ("b/käse 1.jpg", "/somewhere/else/b/käse 1.jpg"),
        ("b/käse 1.jpg", "C:\\Users\\me\\käse 1.jpg"),
        ("käse 1.jpg", quote("käse 1.jpg")),
        (quote("käse 1.jpg"), "käse 1.jpg"),
        ("käse 1.jpg", unicodedata.normalize("NFD", "käse 1.jpg")),
        (unicodedata.normalize("NFD", "käse 1.jpg"), "käse 1.jpg"),
        ("KÄSE 1.JPG", "käse 1.jpg"),
        ("käse 1.jpg", "käse 1.jpg "),
        ("käse 1.png", "käse 1.jpg"),
    ],
)
def test_missing_file_is_found_by_what_lies_there(
    write_coco: Write, lying: str, written: str
) -> None:
    files = write_coco()
    _change(files, lambda content: content["images"][0].update(file_name=written))
    decoy, target = files[1] / "c" / "käse 2.jpg", files[1] / lying
    for path in (decoy, target):
        path.parent.mkdir(exist_ok=True)
    decoy.write_bytes(b"")
    (files[1] / "1.jpg").rename(target)
    inspection = _inspect(files)
    assert len(inspection.splits[0].findings.of("error")) == 1
    (message,) = inspection.splits[0].findings.messages("error")
    assert f"probably meant: {str(target)!r}" in message
    assert "NOT_LISTED" not in _found(inspection)


def test_same_name_in_several_folders(write_coco: Write) -> None:
    files = write_coco()
    _change(files, lambda content: content["images"][0].update(file_name="x\\b\\1.jpg"))
    for folder in ("a", "b", "c"):
        (files[1] / folder).mkdir()
        (files[1] / folder / "1.jpg").write_bytes((files[1] / "1.jpg").read_bytes())
    (message,) = _inspect(files).splits[0].findings.messages("error")
    assert f"probably meant: {str(files[1] / 'b' / '1.jpg')!r}" in message


def test_missing_file_that_is_like_nothing(write_coco: Write) -> None:
    files = write_coco()
    (files[1] / "1.jpg").unlink()
    (message,) = _inspect(files).splits[0].findings.messages("error")
    assert "there is no such file." in message.replace("To do", "")


def _boxes(files: tuple[Path, Path], form: Callable[[float, float, float, float], Any]) -> None:
    def change(content: Coco) -> None:
        for annotation in content["annotations"]:
            annotation["bbox"] = form(*annotation["bbox"])

    _change(files, change)


def test_boxes_as_fractions_are_suspected_once(write_coco: Write) -> None:
    files = write_coco()
    _boxes(files, lambda x, y, w, h: [x / 40, y / 30, w / 40, h / 30])
    assert _found(_inspect(files)) == {"FRACTIONS": 3}
    (warning,) = _inspect(files).warnings()
    assert "fractions of the image: all numbers of the boxes lie in 0 to 1" in warning


def test_corners_are_suspected_once(write_coco: Write) -> None:
    files = write_coco()
    _boxes(files, lambda x, y, w, h: [x, y, x + w, y + h])
    assert _found(_inspect(files)) == {"CORNERS": 3}


@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 40, 30], [0, 0, 40, 30], [0, 0, 0.9, 0.9]],
        [[0, 0, 40.9, 30.9], [1, 1, 38, 28], [0, 0, 40, 30]],
        [[30, 20, 15, 15], [20, 10, 30, 30], [0, 0, 40, 30]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ],
)
def test_boxes_in_pixels_are_not_suspected(write_coco: Write, boxes: list[list[float]]) -> None:
    files = write_coco()

    def change(content: Coco) -> None:
        for annotation, box in zip(content["annotations"], boxes, strict=True):
            annotation.update(bbox=box, area=box[2] * box[3])

    _change(files, change)
    assert not {"FRACTIONS", "CORNERS"} & _found(_inspect(files)).keys()


def test_too_many_objects_are_said_in_one_line(write_coco: Write) -> None:
    files = write_coco()

    def change(content: Coco) -> None:
        first = content["annotations"][0]
        content["annotations"] += [
            {**first, "id": 10 + i, "image_id": 1 + i % 2, "bbox": [i, 1, 9, 9], "area": 81}
            for i in range(9)
        ]

    _change(files, change)
    sources = [Source("train", CocoFile(*files))]
    with ThreadPoolExecutor(2) as pool:
        inspection = inspect(sources, pool, num_queries=4)
    (warning,) = inspection.warnings()
    assert "2 images with more objects than the model has queries" in warning
    assert "12 objects, up to 7 in one image, of which the 4 queries must miss 4" in warning
    assert "model.decoder.num_queries" in warning
    assert "model.decoder.grid_size" in warning
    assert len(inspection.splits[0].findings.of("warning")[0].examples) == 3
