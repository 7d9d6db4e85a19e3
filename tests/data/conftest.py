"""Small data sets on disk, and a catalog that forgets what a test registered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image


@pytest.fixture(autouse=True)
def _clean_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("SAP_DETR_CACHE", str(tmp_path / "cache"))
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _coco() -> dict[str, Any]:
    """Three images of 40x30, the last without objects; category ids 7 and 3, in this order."""
    boxes = {1: (1, 3, [5, 6, 10, 12]), 2: (1, 7, [0, 0, 40, 30]), 3: (2, 3, [30.5, 10, 9.5, 8])}
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in (1, 2, 3)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": c,
                "bbox": b,
                "area": b[2] * b[3],
                "iscrowd": 0,
            }
            for i, (image, c, b) in boxes.items()
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


@pytest.fixture
def coco() -> dict[str, Any]:
    return _coco()


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes annotations and matching images, returns (json file, image folder)."""

    def write(
        content: dict[str, Any] | None = None,
        json_name: str = "data/train.json",
        images_name: str = "data/train",
    ) -> tuple[Path, Path]:
        content = _coco() if content is None else content
        json_file, root = tmp_path / json_name, tmp_path / images_name
        root.mkdir(parents=True, exist_ok=True)
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content))
        rng = np.random.RandomState(0)
        for image in content["images"]:
            pixels = rng.randint(0, 256, (30, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / image["file_name"])
        return json_file, root

    return write
