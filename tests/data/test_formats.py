"""The same data in every format: the same objects, and a training of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_formats import WRITERS

from sap_detr.data import find_splits, generate_shapes
from sap_detr.data.coco_schema import read_split
from sap_detr.engine.main import main

# Of YOLO's labels, six decimals of images of 64 pixels.
TOLERANCE = 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats") / "coco"
    generate_shapes(folder, num_train=6, num_val=3, image_size=(64, 48), seed=3)
    return folder


def objects(folder: Path, split: str) -> dict[str, list[tuple[str, Any]]]:
    """Class names and boxes by the end of the image's name, in the order of the boxes."""
    read = read_split(find_splits(folder)[split])
    return {
        Path(record["file_name"]).stem.removeprefix("train_").removeprefix("val_"): sorted(
            (read.class_names[a["category_id"]], *a["bbox"]) for a in record["annotations"]
        )
        for record in read.records
    }


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["yolo", "voc"])
def test_objects_are_the_same(folder: Path, tmp_path: Path, name: str, split: str) -> None:
    WRITERS[name](folder, tmp_path)
    expected, found = objects(folder, split), objects(tmp_path, split)
    assert found.keys() == expected.keys()
    assert sum(map(len, expected.values())) > 5
    for stem, of_image in expected.items():
        assert [n for n, *_ in found[stem]] == [n for n, *_ in of_image]
        boxes = [[box for _, *box in side[stem]] for side in (found, expected)]
        np.testing.assert_allclose(*boxes, atol=TOLERANCE)


def test_one_json_holds_both_splits(folder: Path, tmp_path: Path) -> None:
    WRITERS["json"](folder, tmp_path)
    assert list(find_splits(tmp_path)) == ["train"]
    whole = read_split(find_splits(tmp_path)["train"])
    parts = [read_split(split) for split in find_splits(folder).values()]
    assert len(whole.records) == 9
    boxes = [a["bbox"] for r in whole.records for a in r["annotations"]]
    apart = [a["bbox"] for part in parts for r in part.records for a in r["annotations"]]
    assert sorted(boxes) == sorted(apart)


@pytest.mark.parametrize(
    "name, where", [("annotations.json", "images"), ("annotations/all.json", "photos")]
)
def test_the_images_of_one_json_are_looked_for(
    folder: Path, tmp_path: Path, name: str, where: str
) -> None:
    WRITERS["json"](folder, tmp_path)
    (tmp_path / "annotations.json").rename(tmp_path / "moved")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "moved").rename(tmp_path / name)
    if where == "images":
        assert find_splits(tmp_path)["train"].image_root == tmp_path / "images"
        return
    (tmp_path / "images").rename(tmp_path / where)
    with pytest.raises(FileNotFoundError, match=r"one \.json file"):
        find_splits(tmp_path)


@pytest.mark.parametrize("name", ["val.json", "instances_test.json"])
def test_a_json_for_evaluation_is_not_trained_on(folder: Path, tmp_path: Path, name: str) -> None:
    WRITERS["json"](folder, tmp_path)
    (tmp_path / "annotations.json").rename(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no train split"):
        find_splits(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_is_all_that_training_needs(
    folder: Path, tmp_path: Path, name: str, tiny_overrides: list[str]
) -> None:
    WRITERS[name](folder, tmp_path / "set")
    changes = [c for c in tiny_overrides if not c.startswith(("dataset.", "model.criterion."))]
    # Detectron2's catalogs keep a name for ever.
    changes += [f"dataset.name={tmp_path.name}", f"dataset.folder={tmp_path}/set"]
    changes += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"]
    changes += ["dataloader.test.num_workers=0", "train.max_iter=1"]
    assert main(["--config-file", "detr/detr_small_custom.py", *changes]) == 0
    log = (tmp_path / "run/log.txt").read_text()
    expected = {"yolo": "YOLO format", "voc": "Pascal VOC format", "json": "COCO format"}
    assert f"data set {tmp_path.name}_train: {expected[name]}, {tmp_path}/set" in log
    assert ("Evaluation results for bbox" in log) == (name != "json")
    assert ("nothing to evaluate" in log) == (name == "json")
