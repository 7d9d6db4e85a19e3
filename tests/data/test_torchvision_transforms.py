"""torchvision.transforms.v2 and large-scale jitter in the mapper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from torchvision.transforms import v2

from sap_detr.config import load_config
from sap_detr.data import (
    DetrDatasetMapper,
    build_crop_augmentations,
    build_jitter_augmentations,
    build_train_augmentations,
)
from sap_detr.data.torchvision_transforms import TorchvisionAugmentation


@pytest.fixture
def record(tmp_path: Any) -> dict[str, Any]:
    """A white rectangle on black, and its box."""
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[20:50, 30:80] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = {"bbox": [30, 20, 50, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    return {"file_name": str(tmp_path / "a.png"), "height": 80, "width": 100, "annotations": [box]}


def bright_box(image: torch.Tensor) -> list[int]:
    """The box around what is brighter than half."""
    rows, columns = (image.float().mean(0) > 127).nonzero(as_tuple=True)
    return [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


TRANSFORMS = [
    v2.RandomRotation(30, expand=True),
    v2.RandomHorizontalFlip(0.5),
    v2.RandomVerticalFlip(0.5),
    v2.RandomAffine(20, translate=(0.1, 0.1), scale=(0.7, 1.2)),
    v2.ScaleJitter((80, 100)),
    v2.RandomZoomOut(fill=0, p=0.7),
    # Noise draws as many numbers for the boxes' image as for the pixels'.
    v2.Compose([v2.GaussianNoise(sigma=0.05), v2.RandomRotation(30, expand=True)]),
    v2.RandomChoice([v2.RandomVerticalFlip(1.0), v2.RandomHorizontalFlip(1.0)]),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_boxes_follow_their_images(record: dict[str, Any], transform: torch.nn.Module) -> None:
    mapper = DetrDatasetMapper(True, [TorchvisionAugmentation(transform)])
    seen = set()
    for seed in range(8):
        np.random.seed(seed)
        sample = mapper(record)
        (box,) = sample["instances"].gt_boxes.tensor.tolist()
        assert sample["instances"].image_size == tuple(sample["image"].shape[1:])
        # Pixels are whole, and torchvision rounds sizes.
        assert np.abs(np.subtract(box, bright_box(sample["image"]))).max() <= 3
        seen.add(tuple(round(v) for v in box))
    assert len(seen) > 1


def test_colours_change_and_boxes_do_not(record: dict[str, Any]) -> None:
    transform = v2.Compose([v2.ColorJitter(0.5, 0.5, 0.5, 0.1), v2.GaussianBlur(5)])
    sample = DetrDatasetMapper(True, [TorchvisionAugmentation(transform)])(record)
    plain = DetrDatasetMapper(True, [])(record)
    assert sample["image"].dtype == torch.uint8
    assert not torch.equal(sample["image"], plain["image"])
    assert torch.equal(sample["instances"].gt_boxes.tensor, plain["instances"].gt_boxes.tensor)


def test_all_randomness_comes_from_numpy(record: dict[str, Any]) -> None:
    mapper = DetrDatasetMapper(True, [TorchvisionAugmentation(v2.RandomRotation(40))])
    images = []
    for torch_seed in (1, 2):
        torch.manual_seed(torch_seed)
        np.random.seed(0)
        images.append(mapper(record)["image"])
        # What torch draws elsewhere is left alone.
        drawn = torch.rand(1)
        torch.manual_seed(torch_seed)
        assert drawn == torch.rand(1)
    assert torch.equal(*images)


@pytest.mark.parametrize(
    "transform, words",
    [
        (v2.ToDtype(torch.float32, scale=True), "torch.float32"),
        (v2.Grayscale(1), "(1, 80, 100)"),
        (
            v2.Compose([v2.Resize((9, 9)), v2.SanitizeBoundingBoxes(5, labels_getter=None)]),
            "0 boxes",
        ),
    ],
)
def test_what_can_not_be_used_is_told(
    record: dict[str, Any], transform: torch.nn.Module, words: str
) -> None:
    with pytest.raises(ValueError) as caught:
        DetrDatasetMapper(True, [TorchvisionAugmentation(transform)])(record)
    assert words in str(caught.value)


def test_other_things_are_no_transforms() -> None:
    with pytest.raises(ValueError, match="is not a transform"):
        build_train_augmentations(extra=["blur"])  # type: ignore[list-item]


def test_pixels_are_needed() -> None:
    with pytest.raises(ValueError, match="reader to 'pil'"):
        DetrDatasetMapper(
            True, build_train_augmentations(extra=[v2.GaussianBlur(3)]), reader="fast"
        )


def test_one_line_of_config_adds_them(record: dict[str, Any]) -> None:
    changes = [
        "dataloader.train.mapper.reader=pil",
        "+dataloader.train.mapper.augmentations.extra=[{_target_:torchvision.transforms.v2.ColorJitter,hue:0.1}]",
    ]
    cfg = load_config("detr/detr_small_custom.py", changes)
    mapper = instantiate(cfg.dataloader.train.mapper)
    *_, last = mapper.augmentations.augs
    assert isinstance(last.transform, v2.ColorJitter)
    assert mapper(record)["image"].shape[0] == 3
    crop = build_crop_augmentations(extra=[v2.GaussianBlur(3)])
    assert isinstance(crop[-1], TorchvisionAugmentation)


@pytest.mark.parametrize("reader", ["pil", "fast", "device"])
def test_large_scale_jitter(record: dict[str, Any], reader: str) -> None:
    described = L(build_jitter_augmentations)(image_size=[60, 60], scale_range=[0.3, 2.0])
    mapper = DetrDatasetMapper(True, instantiate(described), reader=reader)
    sizes = []
    for seed in range(30):
        np.random.seed(seed)
        sample = mapper(record)
        height, width = sample["instances"].image_size
        assert max(height, width) <= 60
        sizes.append(width)
        image = sample["image"]
        if "resize_to" not in sample and len(sample["instances"]):
            (box,) = sample["instances"].gt_boxes.tensor.tolist()
            assert np.abs(np.subtract(box, bright_box(image))).max() <= 2
    # 0.3 * 60 to the full size, and as often as the factor says: 60 from a factor of 1 on.
    assert min(sizes) < 30
    assert 10 < sizes.count(60) < 25


@pytest.mark.parametrize(
    "arguments",
    [{"scale_range": (0, 1)}, {"scale_range": (2, 1)}, {"image_size": (0, 9)}],
)
def test_ranges_that_make_no_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="make no sense"):
        build_jitter_augmentations(**arguments)


def test_points_are_refused(record: dict[str, Any]) -> None:
    transform = TorchvisionAugmentation(v2.GaussianBlur(3)).get_transform(np.zeros((8, 8, 3)))
    assert isinstance(transform, T.Transform)
    with pytest.raises(NotImplementedError):
        transform.apply_coords(np.zeros((1, 2)))
