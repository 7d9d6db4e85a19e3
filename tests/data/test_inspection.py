"""The whole check of a data set, in this process and in others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from sap_detr.data import DatasetError, register_coco
from sap_detr.data.coco_schema import CocoFile
from sap_detr.data.inspection import Inspection, Source, inspect
from sap_detr.data.inspection_report import exit_code, format_report, report_record

Coco = dict[str, Any]
Write = Callable[..., tuple[Path, Path]]


@pytest.fixture
def val(coco: Coco, write_coco: Write) -> Source:
    """A validation split with images of its own."""
    for image in coco["images"]:
        image["file_name"] = f"v{image['file_name']}"
    json_file, root = write_coco(coco, "data/val.json", "data/val")
    for index, path in enumerate(sorted(root.iterdir())):
        Image.fromarray(np.full((30, 40, 3), 60 * index, np.uint8)).save(path)
    return Source("val", CocoFile(json_file, root), training=False)


def _inspect(*sources: Source, pool: Executor | None = None, **options: Any) -> Inspection:
    with pool or ThreadPoolExecutor(1) as executor:
        return inspect(sources, executor, **options)


def _kinds(inspection: Inspection, *severities: Any) -> dict[str, int]:
    severities = severities or ("error", "warning", "note")
    return {k: n for f in inspection.all_findings() for k, n in f.counts(*severities).items()}


def _source(write: Write, content: Coco | None = None) -> Source:
    return Source("train", CocoFile(*write(content)))


def test_a_good_data_set(write_coco: Write, val: Source) -> None:
    inspection = _inspect(_source(write_coco), val, num_queries=2)
    assert not _kinds(inspection)
    assert exit_code(inspection, strict=True) == 0
    text = format_report(report_record(inspection))
    assert "Nothing is wrong." in text
    assert "3, 1 of them without objects" in text
    assert "0 to 2, median 1" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["cat", "2", "2", "2", "█" * 30] in lines
    assert ["dog", "1", "1", "1", "█" * 15] in lines
    record = report_record(inspection)
    assert record["splits"][0]["classes"][1] == {"name": "dog", "objects": 1, "images": 1}
    assert record["splits"][0]["width"] == {"min": 40, "median": 40, "95%": 40, "max": 40}


def test_every_kind_of_bad_file(write_coco: Write, coco: Coco, damage_image: Any) -> None:
    first = coco["images"][0]
    for i in range(4, 12):
        coco["images"].append({**first, "id": i, "file_name": f"{i}.png"})
    source = _source(write_coco, coco)
    root = source.image_root
    assert root is not None
    (root / "4.png").unlink()
    (root / "5.png").write_bytes(b"")
    (root / "6.png").write_bytes((root / "6.png").read_bytes()[:1000])
    (root / "7.png").write_text("<html>")
    Image.new("RGB", (41, 30)).save(root / "8.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(root / "9.png", exif=exif)
    exif[0x0112] = 3
    Image.new("RGB", (40, 30), "red").save(root / "10.png", exif=exif)
    Image.fromarray(np.random.RandomState(1).randint(0, 255, (30, 40, 3)).astype(np.uint8)).save(
        root / "11.png"
    )
    damage_image(root / "11.png")
    expected = {
        "missing image files": 1,
        "empty image files": 1,
        "damaged image files": 1,
        "files that are not images": 1,
        "images of another size than the annotations say": 1,
        "images annotated as they are stored, though EXIF turns them": 1,
    }
    quick = _inspect(source)
    assert _kinds(quick, "error") == expected
    assert _kinds(quick, "note") == {"images that EXIF data turns": 2}
    assert exit_code(quick) == 2
    full = _inspect(source, pool=ProcessPoolExecutor(2), decode=True)
    assert _kinds(full, "error") == {**expected, "damaged image files": 2}
    assert "(41, 30)" not in format_report(report_record(full))
    assert "the image is 41x30" in format_report(report_record(full))


def test_odd_boxes(write_coco: Write, coco: Coco) -> None:
    add = [[3, 3, 1.5, 9], [-5, 0, 10, 10], [50, 0, 5, 5], [1, 1, 0, 5]]
    add += [[5, 6, 10, 12], [5, 6, 10, 12.001]]  # twice more what image 1 has as class 3
    for i, box in enumerate(add):
        image = 1 if i >= 4 else 3
        annotation = {"image_id": image, "category_id": 7 if i == 4 else 3, "bbox": box}
        coco["annotations"].append({**annotation, "id": 50 + i, "area": 1, "iscrowd": 0})
    inspection = _inspect(_source(write_coco, coco), num_queries=3)
    assert not _kinds(inspection, "error")
    assert _kinds(inspection, "warning") == {
        "boxes clipped to their image": 1,
        "boxes entirely outside their image (dropped)": 1,
        "boxes without area (dropped)": 1,
        "boxes with a side below 2 pixels": 1,
        "boxes annotated twice with the same class": 1,
        "images with more objects than the model has queries": 1,
    }
    assert _kinds(inspection, "note") == {"boxes annotated twice with different classes": 1}
    assert exit_code(inspection) == 0
    assert exit_code(inspection, strict=True) == 1


def test_copies_of_images(write_coco: Write, coco: Coco, val: Source) -> None:
    coco["images"].append({**coco["images"][0], "id": 8, "file_name": "copy.jpg"})
    for image in coco["images"]:
        image["file_name"] = image["file_name"].removeprefix("v")
    source = _source(write_coco, coco)
    for index, path in enumerate(sorted(source.image_root.glob("?.jpg"))):
        Image.fromarray(np.full((30, 40, 3), 200 + 10 * index, np.uint8)).save(path)
    shutil.copy(source.image_root / "1.jpg", source.image_root / "copy.jpg")
    shutil.copy(source.image_root / "2.jpg", val.image_root / "v3.jpg")
    inspection = _inspect(source, val)
    assert _kinds(inspection) == {
        "images that are copies of another one": 1,
        "images that are both trained on and evaluated": 1,
    }
    text = format_report(report_record(inspection))
    assert "data/train/copy.jpg'): is the same as" in text
    assert "2.jpg' in train" in text


def test_files_that_only_look_alike_are_no_copies(write_coco: Write, coco: Coco) -> None:
    """Of the same length with the same ends: whole files are compared before anything is said."""
    source = _source(write_coco, coco)
    assert source.image_root is not None
    noise = np.random.RandomState(0).randint(0, 256, (100, 100, 3)).astype(np.uint8)
    coco["images"][0].update(height=100, width=100)
    for name in ("1.jpg", "2.jpg"):
        noise[50, 50] = ord(name[0])
        Image.fromarray(noise).save(source.image_root / name, "BMP")
    inspection = _inspect(source)
    fingerprints = [facts.fingerprint for facts in inspection.splits[0].facts.values()]
    assert len(set(fingerprints)) == len(fingerprints) - 1
    assert "images that are copies of another one" not in _kinds(inspection)


def test_where_files_lie(write_coco: Write, coco: Coco) -> None:
    coco["images"].append({**coco["images"][0], "id": 8})
    coco["images"].append({**coco["images"][0], "id": 9, "file_name": "../train/../other.jpg"})
    source = _source(write_coco, coco)
    assert source.image_root is not None
    Image.new("RGB", (40, 30)).save(source.image_root / "extra.jpg")
    assert _kinds(_inspect(source)) == {
        "files that are listed more than once": 1,
        "file names that lead out of the folder of the images": 1,
        "images in the folder that the annotations don't list": 1,
    }


def test_classes(write_coco: Write, coco: Coco, val: Source) -> None:
    source = _source(write_coco)
    content = json.loads(source.path.read_text())
    content["categories"].append({"id": 9, "name": "bird"})
    source.path.write_text(json.dumps(content))
    assert not _kinds(_inspect(source, val), "error")
    lacking = _inspect(val, source)
    assert not _kinds(lacking, "error")
    content["annotations"][0]["category_id"] = 9
    source.path.write_text(json.dumps(content))
    unknown = {"annotations of classes that the training data does not have": 1}
    assert _kinds(_inspect(val, source), "error") == unknown
    content["annotations"][0]["category_id"] = 3
    source.path.write_text(json.dumps(content))
    coco["categories"].append({"id": 9, "name": "bird"})
    coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != 7]
    val.path.write_text(json.dumps(coco))
    inspection = _inspect(source, val)
    assert _kinds(inspection) == {
        "classes without annotations": 1,
        "classes that are trained but have no example to evaluate with": 1,
    }
    assert "- bird" in format_report(report_record(inspection))
    assert "- train and val: dog" in format_report(report_record(inspection))


def test_an_unusable_category_is_one_finding(write_coco: Write, val: Source) -> None:
    source = _source(write_coco)
    content = json.loads(source.path.read_text())
    content["categories"][0]["name"] = ""
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 3]
    source.path.write_text(json.dumps(content))
    assert _kinds(_inspect(source, val), "error") == {"unusable categories": 1}


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}', None])
def test_annotations_that_can_not_be_read(write_coco: Write, val: Source, text: str | None) -> None:
    source = _source(write_coco)
    assert source.path is not None
    source.path.unlink() if text is None else source.path.write_text(text)
    inspection = _inspect(source, val)
    assert _kinds(inspection) == {"annotation files that can't be used": 1}
    assert exit_code(inspection) == 2
    assert "nothing that can be read" in format_report(report_record(inspection))
    assert "train.json" in format_report(report_record(inspection))


def test_nothing_to_train_on(write_coco: Write, coco: Coco) -> None:
    coco["annotations"] = []
    inspection = _inspect(_source(write_coco, coco))
    assert _kinds(inspection, "error") == {"no annotations": 1}


def test_registered_data_sets(write_coco: Write, coco: Coco) -> None:
    coco["annotations"][0]["bbox"][0] = -20
    register_coco("pets", *write_coco(coco))
    source = Source.registered("pets")
    assert source.path is not None
    assert _kinds(_inspect(source)) == {"boxes entirely outside their image (dropped)": 1}
    dicts = DatasetCatalog.get("pets")
    for record in dicts:
        for annotation in record["annotations"]:
            annotation["bbox"] = BoxMode.convert(
                annotation["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS
            )
            annotation["bbox_mode"] = BoxMode.XYXY_ABS
    dicts[1]["annotations"] += dicts[1]["annotations"]
    DatasetCatalog.register("by_function", lambda: dicts)
    MetadataCatalog.get("by_function").thing_classes = ["cat", "dog"]
    inspection = _inspect(Source.registered("by_function"))
    assert _kinds(inspection) == {"boxes annotated twice with the same class": 1}
    dicts[0]["annotations"][0]["bbox"] = [1, 2, 3]
    inspection = _inspect(Source.registered("by_function"))
    assert _kinds(inspection, "error") == {"boxes that are not four numbers": 1}
    with pytest.raises(DatasetError, match="no data set 'pest'"):
        Source.registered("pest")


def test_examples_are_limited_in_print_and_counted(write_coco: Write, coco: Coco) -> None:
    for i in range(12):
        coco["images"].append({**coco["images"][0], "id": 100 + i, "file_name": f"x{i}.jpg"})
    source = _source(write_coco, coco)
    for path in source.image_root.glob("x*"):
        path.unlink()
    inspection = _inspect(source)
    text = format_report(report_record(inspection), num_examples=3)
    assert "train: missing image files: 12" in text
    assert text.count("there is no such file") == 3
    assert "... and 9 more" in text
    (group,) = report_record(inspection)["splits"][0]["findings"]
    assert len(group["examples"]) == group["count"] == 12
