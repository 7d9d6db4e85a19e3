"""Data sets in Pascal VOC's format: checked by the same findings, with file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sap_detr.data import DatasetError, Kind, find_splits, register_folder
from sap_detr.data.boxes import Fault
from sap_detr.data.coco_schema import read_split
from sap_detr.data.voc import VocSplit, parse_xml, to_xywh

ANNOTATION = """<annotation>
  <filename>renamed since.jpg</filename>
  <size><width>40</width><height>30</height></size>
  <object>
    <name>dog</name>
    <part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>
    <bndbox><xmin>3</xmin><ymin>5</ymin><xmax>12</xmax><ymax>24</ymax></bndbox>
  </object>
</annotation>
"""
BOX_LINE = 7


def write(root: Path, stem: str, text: str | None = ANNOTATION) -> Path:
    """An image of 40x30 with its annotation; returns the latter."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(ord(stem[0])).randint(0, 256, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / f"JPEGImages/{stem}.png")
    file = root / f"Annotations/{stem}.xml"
    if text is not None:
        file.write_text(text)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    write(root, "a")
    write(root, "b", ANNOTATION.replace("dog", "cat"))
    return root


def found(root: Path) -> dict[Kind, list[str]]:
    findings = read_split(find_splits(root)["train"]).findings
    return {f.kind: [str(e) for e in f.examples] for f in findings.of()}


def test_corners_count_from_one_and_belong_to_the_box(root: Path) -> None:
    assert to_xywh(3, 5, 12, 24) == [2, 4, 10, 20]
    assert to_xywh(1, 1, 1, 1) == [0, 0, 1, 1]
    read = read_split(find_splits(root)["train"])
    assert [a["bbox"] for a in read.records[0]["annotations"]] == [[2, 4, 10, 20]]
    assert read.categories == {1: "cat", 2: "dog"}
    assert [r["annotations"][0]["category_id"] for r in read.records] == [1, 0]


FAULTS = [
    ("<xmax>12<", "<xmax>1<", Kind.BOX_NEGATIVE, BOX_LINE, "negative width"),
    ("<xmax>12<", "<xmax>2.5<", Kind.BOX_NEGATIVE, BOX_LINE, "negative width"),
    ("<xmax>12<", "<xmax>50<", Kind.BOX_CLIPPED, BOX_LINE, "in an image of 40x30"),
    ("<xmin>3<", "<xmin>0<", Kind.FROM_ZERO, BOX_LINE, ""),
    ("<ymin>5<", "<ymin>five<", Kind.BAD_XML, BOX_LINE, "not four numbers"),
    ("<ymin>5</ymin>", "", Kind.BAD_XML, BOX_LINE, "not four numbers"),
    ("<ymin>5<", "<ymin>nan<", Kind.BOX_NOT_FINITE, BOX_LINE, "not finite"),
    ("    <bndbox><xmin>3", "    <ellipse><xmin>3", Kind.BAD_XML, BOX_LINE, "mismatched tag"),
    ("<name>dog</name>", "", Kind.BAD_XML, 4, "the object has no name"),
    ("<name>dog", "<difficult>1</difficult><name>dog", Kind.DIFFICULT, BOX_LINE, ""),
    ("</annotation>", "", Kind.BAD_XML, 10, "no element found"),
    ("<annotation>", "<!DOCTYPE x><annotation>", Kind.BAD_XML, 1, "has a document type"),
]


@pytest.mark.parametrize("old, new, kind, line, words", FAULTS)
def test_faults_are_found_with_file_and_line(
    root: Path, old: str, new: str, kind: Kind, line: int, words: str
) -> None:
    assert old in ANNOTATION
    text = ANNOTATION.replace(old, new)
    file = write(root, "a", text)
    ((where,),) = (examples for k, examples in found(root).items() if k is kind)
    assert where.startswith(f"{file}:{line}")
    assert words in where
    if kind.severity == "error":
        with pytest.raises(DatasetError, match=rf"a\.xml:{line}"):
            register_folder("pets", root)


def test_an_object_needs_a_box(root: Path) -> None:
    file = write(root, "a", ANNOTATION.replace("bndbox", "robndbox"))
    assert found(root)[Kind.BAD_XML] == [f"{file}:4: the object has no bndbox"]


def test_entities_are_refused() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>&a;</annotation>'
    with pytest.raises(Fault):
        parse_xml(bomb)


def test_missing_files(root: Path) -> None:
    names = root / "ImageSets/Main/train.txt"
    names.parent.mkdir(parents=True)
    names.write_text("a\n\nc 1\nd\n")
    write(root, "c", None)
    write(root, "d")
    (root / "JPEGImages/d.png").unlink()
    kinds = found(root)
    assert kinds == {Kind.NO_LABELS: [f"{names}:3: no c.xml"]}
    names.write_text("\n")
    with pytest.raises(DatasetError, match="no images"):
        found(root)


def test_sizes_come_from_the_image_where_they_are_not_said(root: Path) -> None:
    text = ANNOTATION.replace("<width>40", "<width>0")
    write(root, "a", text)
    read = read_split(find_splits(root)["train"])
    assert [(r["width"], r["height"]) for r in read.records] == [(40, 30), (40, 30)]
    (root / "JPEGImages/a.png").unlink()
    ((kind, (example,)),) = found(root).items()
    assert kind is Kind.MISSING_FILE
    assert "renamed since.jpg" in example


def test_layouts(root: Path) -> None:
    assert isinstance(find_splits(root)["train"], VocSplit)
    for split in ("train", "valid"):
        # As Roboflow writes it.
        (root / split).mkdir()
        for file in (write(root, "a"), root / "JPEGImages/a.png"):
            file.rename(root / split / file.name)
    splits = find_splits(root)
    assert [s.path for s in splits.values()] == [root / "train", root / "valid"]
    assert [len(read_split(s).records) for s in splits.values()] == [1, 1]


def test_classes_are_those_of_the_training_split(root: Path) -> None:
    for split, stem in (("train", "a"), ("val", "b")):
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text(stem)
    with pytest.raises(DatasetError, match=r"b\.xml:7 .*a class that the training data does not"):
        register_folder("pets", root)
