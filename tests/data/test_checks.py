from __future__ import annotations

import copy
import json
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from sap_detr.data import (
    CocoAnnotations,
    DatasetError,
    Findings,
    Kind,
    check_datasets,
    register_coco,
)
from sap_detr.data.coco_schema import CocoFile, parse_coco, read_split
from sap_detr.data.files import inspect_files
from sap_detr.data.findings import MAX_LISTED
from sap_detr.data.registry import inspect_dicts

Coco = dict[str, Any]
Write = Callable[..., tuple[Path, Path]]

DELETE = object()


def _edit(content: Coco, path: str, value: Any) -> Coco:
    """A copy with the item at a path such as ``annotations/0/bbox`` replaced, or deleted."""
    content = copy.deepcopy(content)
    *parents, last = [int(p) if p.isdigit() else p for p in path.split("/")]
    target: Any = content
    for parent in parents:
        target = target[parent]
    if value is DELETE:
        del target[last]
    else:
        target[last] = value
    return content


def _check(content: Any, **options: Any) -> CocoAnnotations:
    annotations = parse_coco(content, "file.json", "root", **options)
    annotations.findings.raise_errors()
    return annotations


def _check_files(dicts: list[dict[str, Any]], decode: bool = False) -> None:
    findings = Findings("images")
    with ThreadPoolExecutor(2) as pool:
        inspect_files(dicts, findings, pool, decode=decode)
    findings.raise_errors()


def test_good_annotations_pass_without_repairs(coco: Coco) -> None:
    checked = _check(coco)
    assert checked.class_names == ["cat", "dog"]
    assert list(checked.categories) == [3, 7]
    assert not checked.findings.of()
    assert checked.for_evaluation is None


ERRORS = [
    ("annotations/1/bbox", DELETE, r"annotation 2 \(image 1, '1.jpg'\): bbox is missing"),
    ("annotations/1/bbox", None, "annotation 2 .*bbox is missing"),
    ("annotations/1/bbox", [1, 2, 3], "annotation 2 .*not four numbers"),
    ("annotations/1/bbox", [1, 2, 3, "4"], "annotation 2 .*not four numbers"),
    ("annotations/1/bbox", [1, 2, True, 4], "annotation 2 .*not four numbers"),
    ("annotations/1/bbox", "1234", "annotation 2 .*not four numbers"),
    ("annotations/1/bbox", {"x": 1, "y": 2, "w": 3, "h": 4}, "annotation 2 .*not four numbers"),
    ("annotations/1/bbox", 7, "annotation 2 .*not four numbers"),
    ("annotations/1/bbox", [1, 2, float("nan"), 4], "annotation 2 .*not finite"),
    ("annotations/1/bbox", [float("-inf"), 2, 3, 4], "annotation 2 .*not finite"),
    ("annotations/1/bbox", [1, 2, 10**400, 4], "annotation 2 .*not finite"),
    ("annotations/1/bbox", [20, 20, -5, 4], "annotation 2 .*negative width or height"),
    ("annotations/1/image_id", 99, "annotation 2: image_id 99 is not the id of an image"),
    ("annotations/1/image_id", DELETE, "annotation 2: image_id None"),
    ("annotations/1/image_id", "1", "annotation 2: image_id is '1', which is text"),
    ("annotations/1/image_id", [1], "annotation 2: image_id"),
    ("annotations/1/category_id", 1, "annotation 2 .*category_id 1 is not among"),
    ("annotations/1/category_id", 10**400, "annotation 2 .*category_id 1000.* is not among"),
    ("annotations/1/category_id", {}, "annotation 2 .*category_id"),
    ("annotations/1/iscrowd", 2, "annotation 2 .*iscrowd is 2"),
    ("annotations/1/iscrowd", "no", "annotation 2 .*iscrowd is 'no'"),
    ("annotations/1", None, r"annotations\[1\]: is None"),
    ("images/1", "2.jpg", r"images\[1\]: is '2.jpg'"),
    ("images/1/id", DELETE, r"images\[1\]: id is None"),
    ("images/1/id", True, r"images\[1\]: id is True"),
    ("images/1/id", 2**70, r"images\[1\]: id is"),
    ("images/1/id", 1, "image 1 .*its id is that of '1.jpg'"),
    ("images/1/file_name", DELETE, "image 2 .*file_name"),
    ("images/1/file_name", 5, "image 2 .*file_name"),
    ("images/1/file_name", "a\0.jpg", "image 2 .*file_name"),
    ("images/1/height", DELETE, "image 2 .*height None, width 40"),
    ("images/1/width", 0, "image 2 .*not two positive integers"),
    ("images/1/width", "40", "image 2 .*width '40'"),
    ("images/1/width", 40.5, "image 2 .*not two positive integers"),
    ("images/1/width", 10**9, "image 2 .*more than the limit of 100000000 pixels"),
    ("categories/1", [], r"categories\[1\]: is \[\]"),
    ("categories/1/id", DELETE, r"categories\[1\]: id is None"),
    ("categories/1/id", 7, "category 7: the id is used twice, for 'dog' and 'cat'"),
    ("categories/1/name", DELETE, "category 3: name is None"),
    ("categories/1/name", "", "category 3: name is ''"),
    ("images", DELETE, "not COCO.*'images' is missing"),
    ("annotations", DELETE, "not COCO.*'annotations' is missing"),
    ("categories", {"3": "cat"}, "not COCO.*'categories' is a dict"),
    ("images", [], "'images' is empty"),
    ("categories", [], "'categories' is empty"),
    ("annotations", [], "not one of its 0 annotations"),
]


@pytest.mark.parametrize("path, value, message", ERRORS)
def test_bad_annotations_are_named(coco: Coco, path: str, value: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=f"(?s)file.json.*{message}"):
        _check(_edit(coco, path, value))


@pytest.mark.parametrize("content", [[], "text", 3, None])
def test_json_that_is_no_object(content: Any) -> None:
    with pytest.raises(DatasetError, match="not COCO's detection format"):
        _check(content)


def test_many_problems_are_counted_and_the_first_listed(coco: Coco) -> None:
    bad = {"id": 1, "image_id": 77, "category_id": 3, "bbox": [0, 0, 1, 1]}
    coco["annotations"] += [{**bad, "id": 100 + i} for i in range(25)]
    with pytest.raises(DatasetError) as caught:
        _check(coco)
    message = str(caught.value)
    assert "25 problems found" in message
    assert message.count("image_id 77") == MAX_LISTED
    assert "and 15 more" in message
    assert message.count("To do:") == 1


def test_a_training_set_without_usable_annotations(coco: Coco) -> None:
    for annotation in coco["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(DatasetError, match="not one of its 3 annotations"):
        _check(coco)
    assert len(_check(coco, training=False).records) == 3
    del coco["annotations"]
    assert len(_check(coco, training=False).records) == 3


def test_boxes_are_clipped_and_empty_ones_dropped(coco: Coco) -> None:
    extra = [[-5, -6, 15, 16], [50, 3, 5, 5], [3, 3, 0, 5], [40, 0, 3, 3], [35, 25, 1e300, 1e300]]
    for index, box in enumerate(extra):
        annotation = {"id": 10 + index, "image_id": 3, "category_id": 3, "bbox": box}
        coco["annotations"].append({**annotation, "area": 1, "iscrowd": 0})
    checked = _check(coco)
    boxes = [a["bbox"] for a in checked.records[2]["annotations"]]
    assert boxes == [[0, 0, 10, 10], [35, 25, 5, 5]]
    assert checked.findings.counts() == {
        "boxes clipped to their image": 2,
        "boxes entirely outside their image (dropped)": 2,
        "boxes without area (dropped)": 1,
    }


def test_rounding_at_the_border_is_clipped_silently(coco: Coco) -> None:
    checked = _check(_edit(coco, "annotations/0/bbox", [0, 0, 40.01, 30]))
    assert checked.records[0]["annotations"][0]["bbox"] == [0, 0, 40, 30]
    assert not checked.findings.of()


def test_missing_iscrowd_and_area(coco: Coco) -> None:
    del coco["annotations"][0]["iscrowd"]
    coco["annotations"][1]["area"] = "big"
    checked = _check(coco)
    assert checked.records[0]["annotations"][0]["iscrowd"] == 0
    assert checked.for_evaluation is not None
    repaired = checked.for_evaluation["annotations"]
    assert [a["iscrowd"] for a in repaired] == [0, 0, 0]
    assert [a["area"] for a in repaired] == [120, 1200, 76]
    assert checked.findings.counts().total() == 2


@pytest.mark.parametrize("area", [0, 0.5, 1e-9, 100_000, 1e300, 32 * 42 + 1, -1, None])
def test_areas_that_the_box_contradicts(coco: Coco, area: float | None) -> None:
    """The box of the second one is 40x30."""
    right = _check(coco)
    assert right.for_evaluation is None
    checked = _check(_edit(coco, "annotations/1/area", area))
    repaired = checked.for_evaluation["annotations"]
    assert [a["area"] for a in repaired] == [120, 1200, 76]
    (finding,) = checked.findings.of()
    assert finding.count == 1
    assert finding.kind is (Kind.NO_AREA if area in (-1, None) else Kind.WRONG_AREA)


@pytest.mark.parametrize("area", [1, 12.5, 1200, 1200.5, 32 * 42])
def test_areas_of_masks_are_left_alone(coco: Coco, area: float) -> None:
    checked = _check(_edit(coco, "annotations/1/area", area))
    assert checked.for_evaluation is None
    assert not checked.findings.of()


def test_areas_of_small_boxes_may_be_below_a_pixel(coco: Coco) -> None:
    coco["annotations"][1].update(bbox=[3, 3, 2, 2], area=0.25)
    assert _check(coco).for_evaluation is None
    coco["annotations"][1].update(bbox=[3, 3, 0, 2], area=0)
    assert _check(coco).for_evaluation is None


def test_whole_numbers_written_as_floats_are_taken(coco: Coco) -> None:
    content = _edit(_edit(coco, "images/0/width", 40.0), "annotations/0/image_id", 1.0)
    record = _check(content).records[0]
    assert record["width"] == 40
    assert isinstance(record["width"], int)
    assert len(record["annotations"]) == 2


def test_equal_category_names_are_reported(coco: Coco) -> None:
    assert _check(_edit(coco, "categories/0/name", "cat")).findings.counts().total() == 1


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_json_cut_off(write_coco: Write, keep: int) -> None:
    json_file, root = write_coco()
    json_file.write_text(json_file.read_text()[:keep])
    with pytest.raises(DatasetError, match=r"train\.json: not valid json, or cut off"):
        read_split(CocoFile(json_file, root))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"[" * 100_000, b"9" * 10_000])
def test_json_that_is_none(write_coco: Write, content: bytes) -> None:
    json_file, root = write_coco()
    json_file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"train\.json"):
        read_split(CocoFile(json_file, root))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_in_another_encoding(write_coco: Write, encoding: str) -> None:
    json_file, root = write_coco()
    content = json.loads(json_file.read_text())
    content["categories"][0]["name"] = "döçg"
    json_file.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert read_split(CocoFile(json_file, root)).class_names == ["cat", "döçg"]
    register_coco("pets", json_file, root)
    assert json.loads(Path(MetadataCatalog.get("pets").json_file).read_text()) == content


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such annotation file"):
        read_split(CocoFile(tmp_path / "none.json", tmp_path))


@pytest.fixture
def dicts(write_coco: Write) -> list[dict[str, Any]]:
    return list(read_split(CocoFile(*write_coco())).records)


def test_good_images_pass(dicts: list[dict[str, Any]]) -> None:
    _check_files(dicts)
    _check_files(dicts, decode=True)


def test_missing_image(dicts: list[dict[str, Any]]) -> None:
    path = Path(dicts[1]["file_name"])
    path.rename(path.with_suffix(".JPG"))
    with pytest.raises(DatasetError, match=r"image 2 .*no such file; probably meant: '.*2\.JPG'"):
        _check_files(dicts)


def test_missing_image_folder(dicts: list[dict[str, Any]], tmp_path: Path) -> None:
    for record in dicts:
        record["file_name"] = str(tmp_path / "nowhere" / "a.jpg")
    with pytest.raises(DatasetError, match=r"nowhere': .*3 images"):
        _check_files(dicts)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"<html>404</html>", "not an image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not an image|damaged or cut off"),
    ],
)
def test_files_that_are_no_images(
    dicts: list[dict[str, Any]], content: bytes, message: str
) -> None:
    Path(dicts[1]["file_name"]).write_bytes(content)
    with pytest.raises(DatasetError, match=f"(?s)1 problem .*image 2 .*({message})"):
        _check_files(dicts)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_truncated_image(dicts: list[dict[str, Any]], suffix: str) -> None:
    path = Path(dicts[1]["file_name"])
    Image.open(path).save(path.with_suffix(suffix))
    dicts[1]["file_name"] = str(path.with_suffix(suffix))
    _check_files(dicts)
    data = path.with_suffix(suffix).read_bytes()
    path.with_suffix(suffix).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DatasetError, match=r"image 2 .*damaged or cut off"):
        _check_files(dicts)


def test_trailing_bytes_are_no_truncation(dicts: list[dict[str, Any]]) -> None:
    path = Path(dicts[1]["file_name"])
    path.write_bytes(path.read_bytes() + bytes(100_000))
    _check_files(dicts)


def test_damage_inside_is_found_by_decoding(dicts: list[dict[str, Any]]) -> None:
    path = Path(dicts[1]["file_name"]).with_suffix(".png")
    Image.open(dicts[1]["file_name"]).save(path)
    dicts[1]["file_name"] = str(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    _check_files(dicts)
    with pytest.raises(DatasetError, match=r"image 2 .*damaged"):
        _check_files(dicts, decode=True)


def test_size_that_disagrees(dicts: list[dict[str, Any]]) -> None:
    dicts[2]["width"] = 41
    with pytest.raises(DatasetError, match=r"image 3 .*40x30 .*annotations say 41x30"):
        _check_files(dicts)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_rotation_counts(dicts: list[dict[str, Any]], suffix: str) -> None:
    path = Path(dicts[1]["file_name"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path.with_suffix(suffix), exif=exif)
    dicts[1]["file_name"] = str(path.with_suffix(suffix))
    with pytest.raises(DatasetError, match=r"image 2 .*30x40.*EXIF orientation 6"):
        _check_files(dicts)
    dicts[1]["height"], dicts[1]["width"] = 40, 30
    _check_files(dicts)


def test_image_bomb(dicts: list[dict[str, Any]]) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    Path(dicts[1]["file_name"]).write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(DatasetError, match=r"image 2 .*more than the limit of 100000000"):
        _check_files(dicts)


def test_remote_files_are_not_looked_at(dicts: list[dict[str, Any]]) -> None:
    dicts[1]["file_name"] = "s3://bucket/2.jpg"
    _check_files(dicts)


def test_check_datasets_summarises(write_coco: Write, coco: Coco) -> None:
    coco["annotations"][1]["iscrowd"] = 1
    register_coco("pets", *write_coco(coco))
    (split,) = check_datasets(["pets"]).splits
    assert [len(record["annotations"]) for record in split.dicts] == [2, 1, 0]
    assert split.class_names == ["cat", "dog"]
    assert split.class_counts() == {0: 2}


def test_check_datasets_looks_at_images(write_coco: Write) -> None:
    json_file, root = write_coco()
    register_coco("pets", json_file, root)
    (root / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"(?s)train\.json.*2\.jpg"):
        check_datasets(["pets"])


def test_check_datasets_with_an_unknown_name() -> None:
    with pytest.raises(DatasetError, match=r"no data set 'pest'.*register_folder.*coco_2017"):
        check_datasets(["pest"])


def test_a_missing_builtin_data_set_names_its_variable() -> None:
    with pytest.raises(FileNotFoundError, match=r"instances_train2017\.json.*DETECTRON2_DATASETS"):
        check_datasets(["coco_2017_train"])


def test_check_datasets_with_a_loader_that_fails() -> None:
    def load() -> list[dict[str, Any]]:
        raise KeyError("bbox")

    DatasetCatalog.register("broken", load)
    with pytest.raises(DatasetError, match=r"'broken' can't be loaded \(KeyError: 'bbox'\)"):
        check_datasets(["broken"])


def _record(**annotation: Any) -> dict[str, Any]:
    good = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    return {"file_name": "a.jpg", "image_id": 1, "annotations": [{**good, **annotation}]}


@pytest.mark.parametrize(
    "record, message",
    [
        ({"annotations": []}, "record 0: has no file_name"),
        (_record(bbox=[3, 2, 1, 4]), "negative width"),
        (_record(bbox=np.array([1, 2, np.nan, 4])), "not finite"),
        (_record(bbox=[1, 2, 3]), "not four numbers"),
        (_record(bbox_mode=None), "bbox_mode is None"),
        (_record(bbox_mode=BoxMode.XYWHA_ABS), "bbox_mode"),
        (_record(category_id=2), "category_id is 2"),
        (_record(category_id="cat"), "category_id is 'cat'"),
    ],
)
def test_bad_standard_dicts(record: dict[str, Any], message: str) -> None:
    findings = Findings("custom")
    inspect_dicts([record], ["cat", "dog"], findings)
    with pytest.raises(DatasetError, match=f"(?s)custom.*{message}"):
        findings.raise_errors()


def test_numpy_values_in_standard_dicts_are_fine() -> None:
    record = _record(bbox=np.array([1.0, 2.0, 3.0, 4.0], np.float32), category_id=np.int64(1))
    findings = Findings("custom")
    assert inspect_dicts([record], ["cat", "dog"], findings) == [record]
    assert not findings.of()


def test_a_data_set_without_annotations(write_coco: Write, coco: Coco) -> None:
    coco["annotations"] = []
    register_coco("pets", *write_coco(coco), require_annotations=False)
    assert MetadataCatalog.get("pets").thing_classes == ["cat", "dog"]
    check_datasets(evaluated=["pets"])
    with pytest.raises(DatasetError, match="not one of its 0 annotations"):
        check_datasets(["pets"])
