from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from sap_detr.data import (
    DatasetError,
    DetrDatasetMapper,
    ResizeShortSide,
    build_crop_augmentations,
    build_train_augmentations,
)

XYWH, XYXY = BoxMode.XYWH_ABS, BoxMode.XYXY_ABS


def _annotation(bbox: Any, mode: BoxMode = XYWH, category: int = 0, crowd: int = 0) -> dict:
    return {"bbox": bbox, "bbox_mode": mode, "category_id": category, "iscrowd": crowd}


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """A black image of 40x30 with a red block, and the block's box."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[6:18, 4:14] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": 30,
        "width": 40,
        "image_id": 5,
        "annotations": [_annotation([4, 6, 10, 12], category=2)],
    }


def test_training_output(record: dict[str, Any]) -> None:
    output = DetrDatasetMapper(True, [ResizeShortSide(60)])(record)
    assert output["image"].shape == (3, 60, 80)
    assert output["image"].dtype == torch.uint8
    assert output["image"][:, 24, 16].tolist() == [255, 0, 0]
    assert (output["height"], output["width"], output["image_id"]) == (30, 40, 5)
    assert output["file_name"] == record["file_name"]
    assert "annotations" not in output
    instances = output["instances"]
    assert instances.image_size == (60, 80)
    assert instances.gt_boxes.tensor.tolist() == [[8, 12, 28, 36]]
    assert instances.gt_boxes.tensor.dtype == torch.float32
    assert instances.gt_classes.tolist() == [2]
    assert instances.gt_classes.dtype == torch.int64


def test_inference_output(record: dict[str, Any]) -> None:
    output = DetrDatasetMapper(False, [ResizeShortSide(60)])(record)
    assert set(output) == {"image", "height", "width", "image_id", "file_name"}
    assert output["image"].shape == (3, 60, 80)


def test_the_dict_is_not_changed(record: dict[str, Any]) -> None:
    before = repr(record)
    DetrDatasetMapper(True, build_train_augmentations([64]))(record)
    assert repr(record) == before


def test_channel_order(record: dict[str, Any]) -> None:
    output = DetrDatasetMapper(True, [], image_format="BGR")(record)
    assert output["image"][:, 10, 10].tolist() == [0, 0, 255]


def test_boxes_follow_flip_crop_and_resize(record: dict[str, Any]) -> None:
    """The box stays tight around the red block, whatever the augmentation draws."""
    mapper = DetrDatasetMapper(
        True,
        build_train_augmentations([50, 70], 120),
        build_crop_augmentations([50, 70], 120, pre_crop_short_sides=[60], crop_range=(30, 60)),
    )
    np.random.seed(0)
    seen = 0
    for _ in range(60):
        output = mapper(record)
        red = output["image"][0] > 127
        if not len(output["instances"]):
            assert red.sum() == 0
            continue
        rows, columns = torch.nonzero(red, as_tuple=True)
        if not len(rows):
            continue  # a sliver thinner than half a pixel
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = output["instances"].gt_boxes.tensor[0]
        torch.testing.assert_close(box, torch.stack(drawn).float(), atol=2.0, rtol=0)
        height, width = output["image"].shape[1:]
        assert box.min() >= 0
        assert box[2] <= width
        assert box[3] <= height
        seen += 1
    assert seen > 40


def test_crowds_are_left_out(record: dict[str, Any]) -> None:
    record["annotations"].append(_annotation([1, 1, 20, 20], category=1, crowd=1))
    assert DetrDatasetMapper(True, [])(record)["instances"].gt_classes.tolist() == [2]


def test_boxes_are_clipped_before_an_augmentation_that_pads(record: dict[str, Any]) -> None:
    class PadByTen(T.Augmentation):
        def get_transform(self, image: np.ndarray) -> T.Transform:
            return T.ExtentTransform((-10, -10, 50, 40), (50, 60))

    record["annotations"] = [_annotation([-10, -5, 20, 45], XYXY, 1)]
    output = DetrDatasetMapper(True, [PadByTen()])(record)
    assert output["image"].shape == (3, 50, 60)
    assert output["instances"].gt_boxes.tensor.tolist() == [[10, 10, 30, 40]]


def test_a_crop_cuts_boxes_keeps_slivers_and_drops_empty_ones(record: dict[str, Any]) -> None:
    record["annotations"] = [
        _annotation([4, 6, 20, 12], category=0),
        _annotation([4.5, 0, 10, 10], category=1),
        _annotation([1, 1, 2, 2], category=2),
    ]

    class CropLeft(T.Augmentation):
        def get_transform(self, image: np.ndarray) -> T.Transform:
            return T.CropTransform(0, 0, 4, 30)

    output = DetrDatasetMapper(True, [CropLeft()])(record)["instances"]
    assert output.gt_classes.tolist() == [2]
    record["annotations"][0]["bbox"] = [3.99, 6, 20, 12]
    output = DetrDatasetMapper(True, [CropLeft()])(record)["instances"]
    assert output.gt_classes.tolist() == [0, 2]
    np.testing.assert_allclose(output.gt_boxes.tensor[0], [3.99, 6, 4, 18], rtol=1e-6)


def test_an_image_without_objects_still_trains(record: dict[str, Any]) -> None:
    record["annotations"] = []
    instances = DetrDatasetMapper(True, build_train_augmentations([50]))(record)["instances"]
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.shape == (0,)
    assert instances.gt_classes.dtype == torch.int64
    del record["annotations"]
    assert len(DetrDatasetMapper(True, [])(record)["instances"]) == 0


@pytest.mark.parametrize("probability, share", [(0.0, 0), (0.5, 100), (1.0, 200)])
def test_crop_probability(record: dict[str, Any], probability: float, share: int) -> None:
    mapper = DetrDatasetMapper(
        False, [ResizeShortSide(10)], [ResizeShortSide(20)], crop_probability=probability
    )
    np.random.seed(0)
    cropped = sum(mapper(record)["image"].shape[1] == 20 for _ in range(200))
    assert abs(cropped - share) <= 20
    with pytest.raises(ValueError, match="crop_probability"):
        DetrDatasetMapper(False, [], [], crop_probability=1.5)


@pytest.mark.parametrize("content", [None, b"", b"text", "half"])
def test_an_unreadable_image_is_named(record: dict[str, Any], content: Any) -> None:
    path = Path(record["file_name"])
    if content is None:
        path.unlink()
    elif content == "half":
        path.write_bytes(path.read_bytes()[:60])
    else:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.png: can't be used as an image"):
        DetrDatasetMapper(True, [])(record)


def test_an_image_of_another_size_is_named(record: dict[str, Any]) -> None:
    record["width"] = 41
    with pytest.raises(DatasetError, match=r"a\.png: .*\(40, 30\), expect \(41, 30\)"):
        DetrDatasetMapper(True, [])(record)


def test_a_box_that_is_not_finite_is_named(record: dict[str, Any]) -> None:
    record["annotations"] = [_annotation([4, 6, float("nan"), 12])]
    with pytest.raises(DatasetError, match=r"a\.png: .*not finite"):
        DetrDatasetMapper(True, [])(record)
