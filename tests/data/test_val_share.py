"""Folders without a validation split, divided by the contents of their images."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sap_detr.data import DatasetError, Kind, check_datasets, find_splits, register_folder
from sap_detr.data.val_share import choose_validation

NUM_IMAGES = 50


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """50 images: 45 have an a, every second of them a b, five a c; the last five have nothing."""
    images = tmp_path / "set/images"
    images.mkdir(parents=True)
    content: dict[str, Any] = {"info": {}, "images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate("abc", 1)]
    for index in range(NUM_IMAGES):
        pixels = np.random.RandomState(index).randint(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
        entry = {"id": index + 1, "file_name": f"{index}.png", "width": 8, "height": 8}
        content["images"].append(entry)
        for category in (1, 2 * (index % 2), 3 * (index % 10 == 0)) if index < 45 else ():
            if category:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": index + 1,
                        "category_id": category,
                        "bbox": [0, 0, 8, 8],
                        "area": 64,
                        "iscrowd": 0,
                    }
                )
    (tmp_path / "set/annotations.json").write_text(json.dumps(content))
    return tmp_path / "set"


def parts(root: Path, name: str) -> list[list[dict[str, Any]]]:
    names = register_folder(name, root, val_share=0.2)
    assert names == [f"{name}_train", f"{name}_val"]
    return [DatasetCatalog.get(each) for each in names]


def test_every_class_is_divided_by_the_share(root: Path) -> None:
    train, val = parts(root, "pets")
    assert len(train) + len(val) == NUM_IMAGES
    having = Counter(a["category_id"] for record in val for a in record["annotations"])
    without = sum(not record["annotations"] for record in val)
    assert (dict(having), without) == ({0: 9, 1: 4, 2: 1}, 1)
    content = json.loads(Path(MetadataCatalog.get("pets_val").json_file).read_text())
    assert [image["id"] for image in content["images"]] == [record["image_id"] for record in val]
    assert len(content["annotations"]) == having.total()
    assert not check_datasets(["pets_train"], ["pets_val"]).warnings()


def test_it_goes_by_the_content_alone(root: Path) -> None:
    _, before = parts(root, "pets")
    content = json.loads((root / "annotations.json").read_text())
    content["images"].reverse()
    for image in content["images"]:
        name = image["file_name"]
        image["file_name"] = f"{1000 - int(name.removesuffix('.png'))}.png"
        (root / "images" / name).rename(root / "images" / image["file_name"])
    (root / "annotations.json").write_text(json.dumps(content))
    _, after = parts(root, "renamed")
    assert [r["image_id"] for r in after] == [r["image_id"] for r in before]


def test_copies_stay_on_one_side(root: Path) -> None:
    content = json.loads((root / "annotations.json").read_text())
    for image in content["images"][:]:
        name = f"copy_{image['file_name']}"
        shutil.copy(root / "images" / image["file_name"], root / "images" / name)
        content["images"].append({**image, "id": 100 + image["id"], "file_name": name})
    (root / "annotations.json").write_text(json.dumps(content))
    train, val = ({r["image_id"] for r in part} for part in parts(root, "pets"))
    assert {i + 100 for i in val if i <= 100} == {i for i in val if i > 100}
    assert len(train) + len(val) == 2 * NUM_IMAGES
    inspection = check_datasets(["pets_train"], ["pets_val"])
    assert Kind.TRAINED_AND_EVALUATED not in inspection.between


CHOICES = [
    # At least one of two on either side, none of one.
    ({"a": [1], "b": [1]}, 0.1, 1),
    ({"a": [1], "b": [1]}, 0.9, 1),
    ({"a": [1]}, 0.5, 0),
    ({"a": []}, 0.5, 0),
    ({}, 0.5, 0),
    ({str(i): [1] for i in range(10)}, 0.3, 3),
    # Of class 2, which is rarer, one; it counts for class 1 as well.
    ({str(i): [1, 2] if i < 5 else [1] for i in range(10)}, 0.2, 2),
]


@pytest.mark.parametrize("classes, share, number", CHOICES)
def test_numbers_by_hand(classes: dict[str, list[int]], share: float, number: int) -> None:
    chosen = choose_validation(classes, share)
    assert len(chosen) == number
    if len(classes) == 10 and share == 0.2:
        assert sum(2 in classes[content] for content in chosen) == 1


@pytest.mark.parametrize("share", [0, 1, -0.5, 20])
def test_a_share_is_between_0_and_1(root: Path, share: float) -> None:
    with pytest.raises(DatasetError, match="a number between 0 and 1"):
        find_splits(root, val_share=share)


def test_a_validation_split_is_not_ignored(root: Path) -> None:
    (root / "val").mkdir()
    (root / "annotations.json").rename(root / "train.json")
    (root / "images").rename(root / "train")
    shutil.copy(root / "train.json", root / "val.json")
    with pytest.raises(DatasetError, match=r"val\.json.*take dataset\.val_share=0\.2 away"):
        find_splits(root, val_share=0.2)


@pytest.mark.parametrize("key", ["file_name", "id"])
def test_broken_entries_are_found(root: Path, key: str) -> None:
    content = json.loads((root / "annotations.json").read_text())
    del content["images"][3][key]
    (root / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=key):
        register_folder("pets", root, val_share=0.2)
    (root / "images/5.png").unlink()
    content["images"][3] = {"id": 4, "file_name": "3.png", "width": 8, "height": 8}
    (root / "annotations.json").write_text(json.dumps(content))
    names = register_folder("pets", root, val_share=0.2)
    with pytest.raises(DatasetError, match=r"5\.png.*no such file"):
        check_datasets(names[:1], names[1:])
