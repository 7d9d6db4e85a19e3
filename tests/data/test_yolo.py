"""Data sets in YOLO's format: read as COCO's, checked by the same findings, with file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sap_detr.data import (
    DatasetError,
    Kind,
    check_datasets,
    describe_source,
    find_splits,
    register_folder,
)
from sap_detr.data.coco_schema import read_split
from sap_detr.data.yolo import YoloSplit, parse_label

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def write_image(path: Path, seed: int = 0) -> None:
    """An image of 40x30."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write(root: Path, split: str, labels: dict[str, str | None]) -> None:
    """A split of images, with the text of the label file of each; None for no file."""
    for index, (name, text) in enumerate(labels.items()):
        write_image(root / f"images/{split}/{name}.png", index + 10 * (split == "val"))
        if text is not None:
            file = root / f"labels/{split}/{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images to train on, of which the second has no objects, and one to evaluate."""
    root = tmp_path / "pets"
    write(root, "train", {"a": "1 0.5 0.5 0.2 0.4\n0 .25 .5 .5 1\n", "b": ""})
    write(root, "val", {"c": "0 0.1 0.2 0.1 0.2"})
    (root / "data.yaml").write_text(YAML)
    return root


def found(root: Path, split: str = "train") -> dict[Kind, list[str]]:
    """What is wrong with a split: examples by kind."""
    findings = read_split(find_splits(root)[split], training=False).findings
    return {f.kind: [str(e) for e in f.examples] for f in findings.of()}


def test_labels_become_boxes_in_pixels(root: Path) -> None:
    assert register_folder("pets", root) == ["pets_train", "pets_val"]
    first, second = DatasetCatalog.get("pets_train")
    assert (first["file_name"], first["width"], first["height"]) == (
        str(root / "images/train/a.png"),
        40,
        30,
    )
    boxes = [a["bbox"] for a in first["annotations"]]
    np.testing.assert_allclose(boxes, [[16, 9, 8, 12], [0, 0, 20, 30]], atol=1e-9)
    assert [a["category_id"] for a in first["annotations"]] == [1, 0]
    assert second["annotations"] == []
    assert MetadataCatalog.get("pets_val").thing_classes == ["cat", "dog"]
    assert register_folder("pets", root) == ["pets_train", "pets_val"]
    assert describe_source("pets_train") == (
        f"data set pets_train: YOLO format, {root}/data.yaml, images in {root}"
    )
    assert not check_datasets(["pets_train"], ["pets_val"]).splits[0].findings.of("error")


def test_images_are_as_they_are_shown(root: Path) -> None:
    """EXIF turns this one: it is 30 wide and 40 high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(root / "images/train/a.png", exif=exif)
    (record, _) = read_split(find_splits(root)["train"]).records
    assert (record["width"], record["height"]) == (30, 40)
    np.testing.assert_allclose(record["annotations"][0]["bbox"], [12, 12, 6, 16], atol=1e-9)


FAULTS = [
    ("2 .5 .5 .1 .1", Kind.BEYOND_CLASSES, "class 2, but there are 2, from 0: cat, dog"),
    ("-1 .5 .5 .1 .1", Kind.BEYOND_CLASSES, "class -1"),
    ("0.5 .5 .5 .1 .1", Kind.BEYOND_CLASSES, "class 0.5"),
    ("0 1.2 .5 .1 .1", Kind.NOT_FRACTIONS, "1.2"),
    ("0 .5 .5 1.02 .1", Kind.NOT_FRACTIONS, "1.02"),
    ("0 .5 nan .1 .1", Kind.NOT_FRACTIONS, "nan"),
    ("0 20 15 8 12", Kind.NOT_FRACTIONS, "0 20 15 8 12"),
    ("0 .5 .5 -.2 .4", Kind.BOX_NEGATIVE, "negative width"),
    ("0 .5 .5 .1", Kind.BAD_LABEL, "4 numbers"),
    ("0 .5 .5 .1 .1 .9", Kind.BAD_LABEL, "6 numbers"),
    ("cat .5 .5 .1 .1", Kind.BAD_LABEL, "is not numbers"),
    ("0,.5,.5,.1,.1", Kind.BAD_LABEL, "is not numbers"),
    ("0 .5 .5 0 .1", Kind.BOX_EMPTY, "bbox"),
    ("0 .1 .5 .3 .1", Kind.BOX_CLIPPED, "bbox"),
]


@pytest.mark.parametrize("line, kind, words", FAULTS, ids=[line for line, *_ in FAULTS])
def test_faults_are_found_with_file_and_line(root: Path, line: str, kind: Kind, words: str) -> None:
    label = root / "labels/train/a.txt"
    label.write_text(f"0 .5 .5 .2 .2\n\n{line}\n")
    ((where, *more),) = (examples for k, examples in found(root).items() if k is kind)
    assert not more
    assert where.startswith((f"{label}:3: ", f"{label}:3 (image 1, 'a.png'): "))
    assert words in where
    if kind.severity == "error":
        with pytest.raises(DatasetError, match=r"a\.txt:3"):
            register_folder("pets", root)


def test_missing_and_empty_files_are_found(root: Path, tmp_path: Path) -> None:
    write(root, "train", {"d": None})
    (root / "labels/train/lost.txt").write_text("0 .5 .5 .2 .2")
    kinds = found(root)
    assert kinds[Kind.EMPTY_LABELS] == [f"{root}/labels/train/b.txt:1"]
    assert kinds[Kind.NO_LABELS] == [f"'{root}/labels/train/d.txt': of 'd.png'"]
    assert kinds[Kind.NO_IMAGE] == [f"'{root}/labels/train/lost.txt'"]
    (root / "images/train/a.png").write_bytes(b"")
    assert found(root)[Kind.EMPTY_FILE] == [f"'{root}/images/train/a.png': the file is empty"]


def test_polygons_become_their_boxes(root: Path) -> None:
    polygon = "1 0.1 0.2 0.5 0.3 0.3 0.8"
    assert parse_label(polygon, ("cat", "dog")) == (1, pytest.approx([0.3, 0.5, 0.4, 0.6]), True)
    (root / "labels/train/a.txt").write_text(polygon)
    assert found(root)[Kind.POLYGONS] == [f"{root}/labels/train/a.txt:1"]


YAMLS = [
    ("names: {1: dog, 0: cat}\ntrain: images/train\nval: images/val\n", None),
    # As Roboflow writes it, of what lies beside the file.
    ("names: [cat, dog]\ntrain: ../images/train\nval: ../images/val\nnc: 2\n", None),
    ("path: /moved/elsewhere\nnames: [cat, dog]\ntrain: [images/train]\nval: val.txt\n", None),
    ("names: [cat, dog]\n", None),
    ("names: [cat, dog]\nnc: 3\ntrain: images/train\n", "nc is 3, but names has 2"),
    ("names: {1: cat, 2: dog}\ntrain: images/train\n", "map from 0, 1, 2"),
    ("names: cat\ntrain: images/train\n", "names is 'cat'"),
    ("names: [cat]\ntrain: images/trian\n", "names 'images/trian', which is not there"),
    ("names: [cat]\nkpt_shape: [17, 3]\ntrain: images/train\n", "poses"),
    ("names: [", "can't be read as yaml"),
]


@pytest.mark.parametrize("text, error", YAMLS)
def test_what_data_yaml_says(root: Path, text: str, error: str | None) -> None:
    (root / "data.yaml").write_text(text)
    (root / "val.txt").write_text("./images/val/c.png\n")
    if error is not None:
        with pytest.raises((DatasetError, FileNotFoundError), match=error):
            find_splits(root)
        return
    assert register_folder("pets", root) == ["pets_train", "pets_val"]
    assert MetadataCatalog.get("pets_train").thing_classes == ["cat", "dog"]
    assert [len(r["annotations"]) for r in DatasetCatalog.get("pets_train")] == [2, 0]
    assert [len(r["annotations"]) for r in DatasetCatalog.get("pets_val")] == [1]


def test_layouts_without_data_yaml(root: Path, tmp_path: Path) -> None:
    (root / "data.yaml").unlink()
    with pytest.raises(DatasetError, match=r"no class names.*data\.yaml.*classes\.txt"):
        find_splits(root)
    (root / "classes.txt").write_text("cat\ndog\n")
    assert list(find_splits(root)) == ["train", "val"]
    (root / "train").mkdir()
    (root / "images/train").rename(root / "train/images")
    (root / "labels/train").rename(root / "train/labels")
    split = find_splits(root)["train"]
    assert isinstance(split, YoloSplit)
    assert [len(r["annotations"]) for r in read_split(split).records] == [2, 0]


def test_a_folder_without_splits_is_trained_on_as_a_whole(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "classes.txt").write_text("cat")
    assert register_folder("pets", tmp_path) == ["pets_train"]
    with pytest.raises(FileNotFoundError, match="no fit split"):
        find_splits(tmp_path, train="fit")


def test_several_formats_are_told_apart_by_name(root: Path) -> None:
    (root / "annotations").mkdir()
    (root / "annotations/train.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"several formats .*dataset\.format=coco or yolo"):
        find_splits(root)
    assert find_splits(root, format="yolo")["train"].format == "YOLO format"
    assert find_splits(root, format="coco")["train"].format == "COCO format"
    with pytest.raises(DatasetError, match="'coc': one of coco, yolo"):
        find_splits(root, format="coc")
