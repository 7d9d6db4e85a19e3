"""The command that writes data sets in COCO format."""

import json
from pathlib import Path

import pytest
from other_formats import WRITERS

from sap_detr.cli import main
from sap_detr.data import find_splits, generate_shapes
from sap_detr.data.coco_schema import read_split


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert") / "coco"
    generate_shapes(folder, num_train=4, num_val=2, image_size=(64, 48), seed=5)
    return folder


def objects(folder):
    """Of every split: pixels of the images, with class names and boxes rounded to a hundredth."""
    return {
        name: {
            Path(record["file_name"]).read_bytes(): sorted(
                (read.class_names[a["category_id"]], *(round(v, 2) + 0.0 for v in a["bbox"]))
                for a in record["annotations"]
            )
            for read in [read_split(split)]
            for record in read.records
        }
        for name, split in find_splits(folder).items()
    }


@pytest.mark.parametrize("name", ["yolo", "voc"])
@pytest.mark.parametrize("how", ["linked", "copied"])
def test_what_was_written_is_what_was_read(folder, tmp_path, capsys, name, how):
    source, target = tmp_path / "from", tmp_path / "to"
    WRITERS[name](folder, source)
    options = ["--copy"] if how == "copied" else []
    assert main(["convert-data", str(source), str(target), *options]) == 0
    assert objects(target) == objects(source)
    assert {split.format for split in find_splits(target).values()} == {"COCO format"}
    out = capsys.readouterr().out
    assert f"to {target}/train.json, 4 images {how} to {target}/train" in out
    assert f"to {target}/val.json, 2 images {how} to {target}/val" in out
    links = {path.stat().st_nlink for path in target.glob("*/*")}
    assert links == {2 if how == "linked" else 1}


def test_what_is_there_is_not_written_over(folder, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["convert-data", str(folder), str(tmp_path)]) == 2
    assert "holds something already" in capsys.readouterr().err
    assert main(["convert-data", str(folder), str(tmp_path / "notes.txt")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_one_json_is_divided(folder, tmp_path, capsys):
    WRITERS["json"](folder, tmp_path / "from")
    target = tmp_path / "to"
    assert main(["convert-data", str(tmp_path / "from"), str(target), "--val-share", "0.3"]) == 0
    assert sorted(len(images) for images in objects(target).values()) == [2, 4]


def test_files_of_one_name_stay_apart(folder, tmp_path):
    source = tmp_path / "from"
    WRITERS["json"](folder, source)
    content = json.loads((source / "annotations.json").read_text())
    for image in content["images"]:
        moved = source / "images" / str(image["id"]) / "photo.png"
        moved.parent.mkdir()
        (source / "images" / image["file_name"]).rename(moved)
        image["file_name"] = f"{image['id']}/photo.png"
    (source / "annotations.json").write_text(json.dumps(content))
    assert main(["convert-data", str(source), str(tmp_path / "to")]) == 0
    assert objects(tmp_path / "to") == objects(source)


def test_broken_data_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    WRITERS["yolo"](folder, tmp_path / "from")
    image, *_ = sorted((tmp_path / "from/images/val").iterdir())
    label = tmp_path / f"from/labels/val/{image.stem}.txt"
    label.write_text("99 .5 .5 .1 .1")
    assert main(["convert-data", str(tmp_path / "from"), str(tmp_path / "to")]) == 2
    assert f"{label}:1: class 99" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_missing_images_are_named(folder, tmp_path, capsys):
    WRITERS["voc"](folder, tmp_path / "from")
    image, *_ = sorted((tmp_path / "from/JPEGImages").iterdir())
    image.unlink()
    assert main(["convert-data", str(tmp_path / "from"), str(tmp_path / "to")]) == 2
    assert image.stem in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
