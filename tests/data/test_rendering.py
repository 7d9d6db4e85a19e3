"""The fast readers give the boxes of Pillow's, and pixels that hardly differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from sap_detr.data import (
    BadImageError,
    DetrDatasetMapper,
    ResizeShortSide,
    build_crop_augmentations,
    build_train_augmentations,
)
from sap_detr.data.images import LIMIT_VARIABLE, OpenImage
from sap_detr.data.loader import TrainDataset
from sap_detr.layers import resize_pixels

FAST_READERS = ("fast", "device")


def _photograph(height: int, width: int) -> Image.Image:
    """Smooth waves of several lengths in three colours."""
    y, x = np.mgrid[:height, :width] / 100
    waves = [
        np.sin(a * x + b * y) + np.sin(2 * b * x - 3 * a * y) for a, b in ((5, 3), (2, 7), (4, 9))
    ]
    return Image.fromarray((127 + 60 * np.stack(waves, axis=-1)).astype(np.uint8))


def _signal_to_noise(image: np.ndarray, expected: np.ndarray) -> float:
    """In decibels."""
    return 10 * np.log10(255**2 / np.mean((image - expected) ** 2))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes an image, returns its record with two boxes."""

    def write(
        height: int = 90, width: int = 120, name: str = "a.jpg", mode: str = "RGB", turn: int = 1
    ) -> dict[str, Any]:
        exif = Image.Exif()
        exif[0x0112] = turn
        _photograph(height, width).convert(mode).save(tmp_path / name, quality=92, exif=exif)
        if turn >= 5:
            height, width = width, height
        boxes = ([0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 1, 1])
        scale = np.array([width, height, width, height])
        return {
            "file_name": str(tmp_path / name),
            "height": height,
            "width": width,
            "annotations": [
                {"bbox": box * scale, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 3}
                for box in boxes
            ],
        }

    return write


def _dataset(record: dict[str, Any], reader: str, **others: Any) -> TrainDataset:
    sides = dict(short_sides=[60, 80, 100], max_size=140)
    crops = build_crop_augmentations(**sides, pre_crop_short_sides=[50, 70], crop_range=(40, 60))
    mapper = DetrDatasetMapper(
        True, build_train_augmentations(**sides), crops, reader=reader, **others
    )
    return TrainDataset([record], mapper, seed=5)


def _finished(sample: dict[str, Any]) -> torch.Tensor:
    if "resize_to" not in sample:
        return sample["image"]
    return resize_pixels(sample["image"], sample["resize_to"])


def _assert_same(published: dict[str, Any], fast: dict[str, Any], tolerance: int) -> None:
    expected, instances = published["instances"], fast["instances"]
    assert instances.image_size == expected.image_size
    assert torch.equal(instances.gt_boxes.tensor, expected.gt_boxes.tensor)
    assert torch.equal(instances.gt_classes, expected.gt_classes)
    image = _finished(fast)
    assert image.dtype == torch.uint8
    assert image.shape == published["image"].shape
    difference = image.int() - published["image"].int()
    assert difference.abs().max() <= tolerance
    assert difference.float().mean().abs() < 0.05


@pytest.mark.parametrize("reader", FAST_READERS)
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_boxes_are_the_same_and_pixels_nearly(
    write: Callable[..., dict[str, Any]], reader: str, image_format: str
) -> None:
    record = write()
    published = _dataset(record, "pil", image_format=image_format)
    fast = _dataset(record, reader, image_format=image_format)
    shapes = set()
    for position in range(30):
        expected = published[position, 0]
        _assert_same(expected, fast[position, 0], tolerance=2)
        shapes.add(expected["image"].shape)
    assert len(shapes) > 10  # with and without crop


@pytest.mark.parametrize(
    ("name", "mode"), [("a.png", "RGB"), ("a.png", "P"), ("a.jpg", "L"), ("a.jpg", "CMYK")]
)
def test_other_kinds_of_images(write: Callable[..., dict[str, Any]], name: str, mode: str) -> None:
    record = write(name=name, mode=mode)
    for position in range(4):
        expected = _dataset(record, "pil")[position, 0]
        _assert_same(expected, _dataset(record, "device")[position, 0], tolerance=2)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("size", [(90, 120), (720, 960)])
def test_turned_by_exif_data(
    write: Callable[..., dict[str, Any]], turn: int, size: tuple[int, int]
) -> None:
    """At a fraction of the size as well."""
    record = write(*size, turn=turn)
    expected = _dataset(record, "pil")[1, 0]
    _assert_same(expected, _dataset(record, "fast")[1, 0], tolerance=2 if size[0] == 90 else 12)


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(
    write: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = OpenImage.decode

    def spy(*args: Any) -> np.ndarray:
        decoded.append(decode(*args))
        return decoded[-1]

    monkeypatch.setattr(OpenImage, "decode", spy)

    def image(reader: str, short_side: int, record: dict[str, Any], *before: Any) -> np.ndarray:
        mapper = DetrDatasetMapper(False, [*before, ResizeShortSide(short_side)], reader=reader)
        return mapper(record)["image"].numpy().astype(np.float64)

    record = write(600, 800)
    for short_side, shape in ((151, (600, 800)), (150, (300, 400)), (70, (150, 200))):
        published = image("pil", short_side, record)
        fast = image("fast", short_side, record)
        assert decoded[-2].shape == (600, 800, 3)
        assert decoded[-1].shape == (*shape, 3)
        assert fast.shape == published.shape
        assert _signal_to_noise(fast, published) > 45
        assert abs(fast.mean() - published.mean()) < 0.2
        assert fast.std() == pytest.approx(published.std(), rel=0.005)
    # Reduced sizes are rounded up.
    record = write(601, 803)
    published, fast = image("pil", 150, record), image("fast", 150, record)
    assert decoded[-1].shape == (301, 402, 3)
    assert _signal_to_noise(fast, published) > 35
    image("fast", 150, write(600, 800, turn=6))
    assert decoded[-1].shape == (400, 300, 3)
    record = write(601, 803)
    # A crop is of pixels of the whole image.
    image("fast", 40, record, T.CropTransform(10, 10, 500, 400))
    assert decoded[-1].shape == (601, 803, 3)
    image("fast", 40, write(600, 800, "a.png"))
    assert decoded[-1].shape == (600, 800, 3)


def test_only_an_enlarging_resize_at_the_end_is_left_to_the_model(
    write: Callable[..., dict[str, Any]],
) -> None:
    record = write()

    def mapped(*augmentations: Any) -> dict[str, Any]:
        return DetrDatasetMapper(True, augmentations, reader="device")(record)

    larger = mapped(ResizeShortSide(180))
    assert larger["image"].shape == (3, 90, 120)
    assert larger["resize_to"] == (180, 240)
    assert larger["instances"].image_size == (180, 240)
    for finished in (
        mapped(ResizeShortSide(45)),
        mapped(ResizeShortSide(180), T.HFlipTransform(240)),
    ):
        assert "resize_to" not in finished
        assert finished["image"].shape[1:] == finished["instances"].image_size
    assert "resize_to" not in mapped()
    nearest = mapped(ResizeShortSide(180, interp=Image.Resampling.NEAREST))
    assert nearest["image"].shape == (3, 180, 240)


def test_a_cut_image_carries_no_more_than_its_pixels(
    write: Callable[..., dict[str, Any]],
) -> None:
    """Workers hand over the whole memory behind a tensor."""
    crop = T.CropTransform(10, 10, 50, 40)
    mapper = DetrDatasetMapper(True, [crop, ResizeShortSide(100)], reader="device")
    image = mapper(write())["image"]
    assert image.shape == (3, 40, 50)
    assert image.untyped_storage().nbytes() == image.numel()


def test_changes_of_colour(write: Callable[..., dict[str, Any]]) -> None:
    record = write()
    augmentations = [T.RandomBrightness(0.5, 0.8), ResizeShortSide(70)]
    for reader in FAST_READERS:
        results = []
        for name in ("pil", reader):
            np.random.seed(0)
            results.append(DetrDatasetMapper(True, augmentations, reader=name)(record))
        _assert_same(*results, tolerance=1)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (T.RandomContrast(0.5, 2), "looks at the pixels"),
        (T.RandomSaturation(0.5, 2), "looks at the pixels"),
        (T.PadTransform(1, 1, 1, 1), "PadTransform"),
    ],
)
def test_augmentations_that_need_pixels_are_refused_at_once(
    augmentation: Any, message: str
) -> None:
    DetrDatasetMapper(True, [augmentation])
    with pytest.raises(ValueError, match=rf"{message}.*reader to 'pil'"):
        DetrDatasetMapper(True, [], [augmentation], reader="fast")


def test_building_a_mapper_draws_nothing() -> None:
    np.random.seed(0)
    expected = np.random.uniform()
    np.random.seed(0)
    DetrDatasetMapper(True, build_train_augmentations(), build_crop_augmentations(), reader="fast")
    assert np.random.uniform() == expected


def test_an_unknown_reader_is_refused() -> None:
    with pytest.raises(ValueError, match="pil, fast, device, got 'gpu'"):
        DetrDatasetMapper(True, [], reader="gpu")


@pytest.mark.parametrize("reader", FAST_READERS)
def test_a_position_of_the_stream_gives_the_same_bytes(
    write: Callable[..., dict[str, Any]], reader: str
) -> None:
    record = write()
    first, second = _dataset(record, reader), _dataset(record, reader)
    second[0, 0]
    for position in (3, 4):
        assert torch.equal(first[position, 0]["image"], second[position, 0]["image"])
    assert not torch.equal(_finished(first[3, 0])[:, :40, :40], _finished(first[4, 0])[:, :40, :40])


@pytest.mark.parametrize("reader", FAST_READERS)
def test_limits_and_messages_hold(
    write: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    mapper = DetrDatasetMapper(True, [ResizeShortSide(20)], reader=reader)
    record = write(600, 800)
    with pytest.raises(BadImageError, match=r"a\.jpg.*expect \(800, 599\)"):
        mapper({**record, "height": 599})
    path = Path(record["file_name"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImageError, match=r"a\.jpg.*damaged or cut off"):
        mapper(record)
    # Refused for what the header says, not for the damage.
    monkeypatch.setenv(LIMIT_VARIABLE, "1000")
    with pytest.raises(BadImageError, match="more than the limit of 1000 pixels"):
        mapper(record)
