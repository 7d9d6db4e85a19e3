"""A second start on unchanged data says and trains what the first did, without reading it again."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sap_detr.data import check_datasets, dataset_records, inspection, register_coco, registration
from sap_detr.data.cache import cache_folder

Coco = dict[str, Any]
Write = Callable[..., tuple[Path, Path]]
Messages = list[str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read or inspected, in order."""
    done: list[str] = []

    def noting(module: Any, name: str) -> None:
        function = getattr(module, name)

        def noted(*args: Any, **options: Any) -> Any:
            done.append(name)
            return function(*args, **options)

        monkeypatch.setattr(module, name, noted)

    noting(registration, "read_split")
    noting(inspection, "inspect")
    return done


def _start(json_file: Path, root: Path, **settings: Any) -> tuple[Messages, list[dict[str, Any]]]:
    """Registers and checks as a new process would."""
    if "pets" in DatasetCatalog.list():
        DatasetCatalog.remove("pets")
        MetadataCatalog.remove("pets")
    register_coco("pets", json_file, root)
    found = check_datasets(["pets"], **settings)
    lines = [
        line
        for findings in found.all_findings()
        for severity in ("warning", "note")
        for line in findings.messages(severity)
    ]
    return lines, list(dataset_records("pets"))


@pytest.fixture
def flawed(coco: Coco, write_coco: Write) -> tuple[Path, Path]:
    """A data set that can be used, with something to say of annotations, boxes and images."""
    coco["annotations"][0]["bbox"] = [30, 6, 20, 12]
    coco["annotations"][0]["area"] = 240
    coco["annotations"][1]["bbox"] = [3, 3, 1, 1]
    del coco["annotations"][1]["area"]
    json_file, root = write_coco(coco)
    Image.new("RGB", (8, 8)).save(root / "not_listed.png")
    return json_file, root


def test_second_start_reads_nothing_and_says_the_same(
    flawed: tuple[Path, Path], read: list[str]
) -> None:
    first = _start(*flawed)
    assert {"clipped", "2 pixels", "don't list", "without a usable area"} == {
        part
        for part in ("clipped", "2 pixels", "don't list", "without a usable area")
        if any(part in line for line in first[0])
    }
    evaluated = MetadataCatalog.get("pets").json_file
    assert _start(*flawed) == first
    assert MetadataCatalog.get("pets").json_file == evaluated != str(flawed[0])
    assert read == ["read_split", "inspect"]
    # The copy that evaluation needs was removed.
    Path(evaluated).unlink()
    assert _start(*flawed) == first
    assert Path(MetadataCatalog.get("pets").json_file).is_file()
    assert read == ["read_split", "inspect", "read_split"]


def _touch_annotations(json_file: Path, root: Path) -> list[str]:
    os.utime(json_file, ns=(0, 0))
    return ["read_split", "inspect"]


def _touch_image(json_file: Path, root: Path) -> list[str]:
    os.utime(root / "2.jpg", ns=(0, 0))
    return ["inspect"]


def _add_image(json_file: Path, root: Path) -> list[str]:
    Image.new("RGB", (8, 8)).save(root / "new.png")
    return ["inspect"]


@pytest.mark.parametrize("change", [_touch_annotations, _touch_image, _add_image])
def test_what_has_changed_is_read_again(
    flawed: tuple[Path, Path], read: list[str], change: Callable[[Path, Path], list[str]]
) -> None:
    _start(*flawed)
    read.clear()
    expected = change(*flawed)
    _start(*flawed)
    assert read == expected


def test_other_settings_and_programs_inspect_again(
    flawed: tuple[Path, Path], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _start(*flawed)
    read.clear()
    lines, _ = _start(*flawed, num_queries=1)
    assert any("more objects than the model has queries" in line for line in lines)
    assert read == ["inspect"]
    monkeypatch.setattr("sap_detr.data.cache._programs", lambda: "later")
    _start(*flawed, num_queries=1)
    assert read == ["inspect", "read_split", "inspect"]


def test_data_with_errors_is_never_kept(coco: Coco, write_coco: Write, read: list[str]) -> None:
    json_file, root = write_coco(coco)
    (root / "1.jpg").unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match="no such file"):
            _start(json_file, root)
    assert read == ["read_split", "inspect", "inspect"]


def _kept_files() -> list[Path]:
    return sorted(cache_folder().glob("readings_*"))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    # In the first of the arrays.
    place = data.index(b".jpg")
    return data[:place] + b"x" + data[place + 1 :]


def _pickle(data: bytes) -> bytes:
    return pickle.dumps(np.array([print], dtype=object))


@pytest.mark.parametrize("damage", [_cut, _flip, _pickle, lambda data: b""])
def test_damaged_files_are_written_again(
    flawed: tuple[Path, Path],
    read: list[str],
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = _start(*flawed)
    whole = [path.read_bytes() for path in _kept_files()]
    assert len(whole) == 2
    for path in _kept_files():
        path.write_bytes(damage(path.read_bytes()))
    read.clear()
    with caplog.at_level(logging.INFO):
        assert _start(*flawed) == first
    assert read == ["read_split", "inspect"]
    assert caplog.text.count("is damaged") == 2
    assert _start(*flawed) == first
    assert read == ["read_split", "inspect"]


def test_can_be_turned_off(
    flawed: tuple[Path, Path], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _start(*flawed)
    monkeypatch.setenv("SAP_DETR_KEEP_READINGS", "0")
    _start(*flawed)
    assert read == ["read_split", "inspect"] * 2
    for path in _kept_files():
        path.unlink()
    _start(*flawed)
    assert not _kept_files()


def test_without_a_folder_to_write_to_data_is_read_every_time(
    flawed: tuple[Path, Path], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAP_DETR_CACHE", os.devnull)
    assert _start(*flawed) == _start(*flawed)
    assert read == ["read_split", "inspect"] * 2
