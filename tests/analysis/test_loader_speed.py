"""How fast the training mapper is with each of its readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sap_detr.analysis.loader_speed import loader_record, loader_report
from sap_detr.config import ConfigError
from sap_detr.data import DatasetError

SMALL = (
    "dataloader.train.mapper.augmentations.short_sides=[60]",
    "dataloader.train.mapper.crop_probability=0",
)


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    files = [tmp_path / f"{i}.jpg" for i in range(3)]
    for file in files:
        Image.new("RGB", (40, 30)).save(file)
    return [{"file_name": str(file), "height": 30, "width": 40} for file in files]


def test_a_record(records: list[dict[str, Any]]) -> None:
    record = loader_record("common/data/coco.py", records, "files", rounds=2, overrides=SMALL)
    assert (record["images"], record["rounds"], record["data"]) == (3, 2, "files")
    assert list(record["readers"]) == ["pil", "fast", "device"]
    for reader, measured in record["readers"].items():
        assert measured["images_per_second"] == 1 / measured["seconds"]["median"] > 0
        assert measured["bytes"] == 3 * (30 * 40 if reader == "device" else 60 * 80)
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
