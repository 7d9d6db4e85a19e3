"""Ids of pictures and classes."""

import json
from pathlib import Path

import pytest

from sap_detr.data import DatasetError
from sap_detr.results import KnownIds, Picture, numbered_pictures


@pytest.fixture
def write(tmp_path):
    def write(images, categories=({"id": 7, "name": "dog"}, {"id": 3, "name": "cat"})):
        file = tmp_path / "val.json"
        file.write_text(json.dumps({"images": images, "categories": list(categories)}))
        return file

    return write


def test_pictures_are_found_by_the_longest_end_of_their_path(write):
    names = {"1.jpg": 10, "night/1.jpg": 11, "day\\1.jpg": 12, "./2.jpg": 13}
    known = KnownIds.read(write([{"id": i, "file_name": n} for n, i in names.items()]))
    files = [
        Path("a/night/1.jpg"),
        Path("/b/day/1.jpg"),
        Path("c/1.jpg"),
        Path("2.jpg"),
        Path("3.jpg"),
    ]
    pictures, unknown = known.pictures(files)
    assert [picture.id for picture in pictures] == [11, 12, 10, 13]
    assert [picture.number for picture in pictures] == [0, 1, 2, 3]
    assert unknown == [Path("3.jpg")]


def test_two_pictures_of_one_id_are_refused(write):
    known = KnownIds.read(write([{"id": 1, "file_name": "1.jpg"}]))
    with pytest.raises(DatasetError, match=r"a/1\.jpg and b/1\.jpg are both image 1"):
        known.pictures([Path("a/1.jpg"), Path("b/1.jpg")])


def test_pictures_are_found_by_absolute_names(write, tmp_path):
    known = KnownIds.read(write([{"id": 4, "file_name": f"{tmp_path}/1.jpg"}]))
    pictures, unknown = known.pictures([tmp_path / "1.jpg", Path("1.jpg")])
    assert [picture.id for picture in pictures] == [4]
    assert unknown == [Path("1.jpg")]


def test_classes_are_found_by_name(write):
    known = KnownIds.read(write([]))
    assert known.of_classes(["cat", None, "dog"]) == [3, -1, 7]
    assert known.of_classes(["cat", "bird", "dog"], [0]) == [3, -1, -1]
    with pytest.raises(DatasetError, match="no category bird, which the model detects; it has dog"):
        known.of_classes(["cat", "bird", "dog"])
    with pytest.raises(DatasetError, match="have no names"):
        known.of_classes(None)


@pytest.mark.parametrize(
    "images, message",
    [
        ([{"id": 1.5, "file_name": "a"}], r"images\[0\] lacks file_name or a whole id"),
        ([{"id": 1, "file_name": "a"}, {"id": 2}], r"images\[1\] lacks"),
        ([3], r"images\[0\] lacks"),
        (
            [{"id": 4, "file_name": "a/b"}, {"id": 2, "file_name": "a\\b"}],
            "images 4 and 2 have the same file_name, 'a/b'",
        ),
        (None, "no list 'images'"),
    ],
)
def test_other_files_are_refused(write, images, message):
    with pytest.raises(DatasetError, match=message):
        KnownIds.read(write(images))


def test_two_categories_of_one_name_are_refused(write):
    with pytest.raises(DatasetError, match="categories 7 and 8 have the same name, 'dog'"):
        KnownIds.read(write([], [{"id": 7, "name": "dog"}, {"id": 8, "name": "dog"}]))


def test_without_annotations_ids_are_numbers_from_1_on():
    files = [Path("b.jpg"), Path("a.jpg")]
    assert numbered_pictures(files) == [Picture(0, files[0], 1), Picture(1, files[1], 2)]
