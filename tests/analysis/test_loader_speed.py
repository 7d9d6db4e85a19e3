"""What the training mapper's time is split into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from detectron2.data import transforms as T
from PIL import Image

from sap_detr.analysis import file_records, loader_record, loader_report
from sap_detr.config import ConfigError
from sap_detr.data import DatasetError, rendering
from sap_detr.data.images import OpenImage

SMALL = (
    "dataloader.train.mapper.augmentations.short_sides=[60]",
    "dataloader.train.mapper.crop_probability=0",
)


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    files = [tmp_path / f"{i}.jpg" for i in range(3)]
    for file in files:
        Image.new("RGB", (40, 30)).save(file)
    return file_records(files)


def test_a_record(records: list[dict[str, Any]]) -> None:
    functions = OpenImage.decode, T.ResizeTransform.apply_image, rendering.resize_pixels
    record = loader_record("common/data/coco.py", records, "files", rounds=2, overrides=SMALL)
    assert (record["images"], record["rounds"], record["data"]) == (3, 2, "files")
    assert list(record["readers"]) == ["pil", "fast", "device"]
    for reader, measured in record["readers"].items():
        seconds = measured["seconds"]
        resized = {"resizing"} if reader != "device" else set()
        assert set(seconds["parts"]) == {"decoding", "rest"} | resized
        assert measured["images_per_second"] == 1 / seconds["median"]
        assert measured["bytes"] == 3 * (60 * 80 if resized else 30 * 40)
    # What was measured runs as before.
    assert functions == (
        OpenImage.decode,
        T.ResizeTransform.apply_image,
        rendering.resize_pixels,
    )
    report = loader_report([record])
    assert [line.split()[:4] for line in report.splitlines()[2:5]] == [
        ["3", "of", "files", reader] for reader in ("pil", "fast", "device")
    ]


def test_a_bad_image_is_an_error(records: list[dict[str, Any]]) -> None:
    file = Path(records[1]["file_name"])
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DatasetError, match=r"1\.jpg: .*cut off"):
        loader_record("common/data/coco.py", records, "files", ["fast"], 1, SMALL)


def test_a_config_without_a_reader(records: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="has no dataloader"):
        loader_record("common/models/detr_small.py", records, "files")
