from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from omegaconf import OmegaConf
from PIL import Image

from sap_detr.data import (
    DETR_SHORT_SIDES,
    ResizeShortSide,
    build_crop_augmentations,
    build_test_augmentations,
    build_train_augmentations,
    resized_shape,
)


@pytest.mark.parametrize(
    "size, short_side, max_size, expected",
    [
        ((480, 640), 800, 1333, (800, 1066)),  # 1066.67, which Detectron2 rounds up
        ((640, 480), 800, 1333, (1066, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((500, 375), 800, 1333, (1066, 800)),
        ((333, 500), 800, 1333, (800, 1201)),
        ((300, 600), 800, 1333, (666, 1332)),  # round(666.5) is 666, and the long side follows it
        ((600, 300), 800, 1333, (1332, 666)),
        ((200, 640), 800, 1333, (417, 1334)),  # the published arithmetic may pass the limit by one
        ((512, 512), 800, 1333, (800, 800)),
        ((375, 1242), 400, None, (400, 1324)),
        ((100, 5000), 600, None, (600, 30000)),
        # Published, this is (0, 0).
        ((1, 5000), 800, 1333, (1, 1333)),
        ((3000, 1), 64, 96, (96, 1)),
    ],
)
def test_published_sizes(size, short_side, max_size, expected) -> None:  # type: ignore[no-untyped-def]
    assert resized_shape(*size, short_side, max_size) == expected


def test_arithmetic_in_exact_numbers() -> None:
    rng = np.random.RandomState(0)
    for height, width in rng.randint(100, 1500, (300, 2)).tolist():
        side = int(rng.choice(DETR_SHORT_SIDES))
        short, long = min(height, width), max(height, width)
        if Fraction(long, short) * side > 1333:
            side = round(Fraction(1333 * short, long))
        expected = (side, int(Fraction(side * long, short)))
        got = resized_shape(height, width, side, 1333)
        assert got == (expected if height <= width else expected[::-1])


def test_published_short_sides() -> None:
    assert DETR_SHORT_SIDES == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


def test_resize_is_pillow_bilinear_and_scales_boxes() -> None:
    image = np.random.RandomState(0).randint(0, 256, (30, 45, 3)).astype(np.uint8)
    transform = ResizeShortSide(64, 90).get_transform(image)
    resized = transform.apply_image(image)
    assert resized.shape == (60, 90, 3)
    expected = Image.fromarray(image).resize((90, 60), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized, np.asarray(expected))
    boxes = transform.apply_box(np.array([[3.0, 6.0, 15.0, 30.0]]))
    np.testing.assert_allclose(boxes, [[6, 12, 30, 60]])


def test_short_sides_are_drawn_uniformly_from_numpy() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    augmentation = ResizeShortSide([8, 12, 16])

    def draw() -> list[int]:
        np.random.seed(0)
        return [augmentation.get_transform(image).new_h for _ in range(300)]

    sides = draw()
    assert sides == draw()
    assert all(80 < sides.count(s) < 120 for s in (8, 12, 16))


@pytest.mark.parametrize("bad", [{"short_sides": []}, {"short_sides": [32, 0]}, {"max_size": 0}])
def test_senseless_sizes_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ResizeShortSide(**{"short_sides": 32, **bad})


@pytest.mark.parametrize("crop_range", [(600, 384), (0, 10)])
def test_senseless_crops_are_refused(crop_range: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="crop_range"):
        build_crop_augmentations(crop_range=crop_range)


def test_published_pipelines() -> None:
    flip, resize = build_train_augmentations()
    assert isinstance(flip, T.RandomFlip)
    assert flip.prob == 0.5
    assert isinstance(resize, ResizeShortSide)
    assert (resize.short_sides, resize.max_size) == (DETR_SHORT_SIDES, 1333)

    flip, first, crop, last = build_crop_augmentations()
    assert isinstance(flip, T.RandomFlip)
    assert isinstance(first, ResizeShortSide)
    assert (first.short_sides, first.max_size) == ((400, 500, 600), None)
    assert isinstance(crop, T.RandomCrop)
    assert isinstance(last, ResizeShortSide)
    assert (last.short_sides, last.max_size) == (DETR_SHORT_SIDES, 1333)

    (resize,) = build_test_augmentations()
    assert isinstance(resize, ResizeShortSide)
    assert (resize.short_sides, resize.max_size) == ((800,), 1333)


def test_crop_sizes_are_independent_and_include_both_ends() -> None:
    _, _, crop, _ = build_crop_augmentations(crop_range=(4, 6))
    image = np.zeros((5, 9, 3), np.uint8)
    np.random.seed(0)
    transforms = [crop.get_transform(image) for _ in range(300)]
    assert {(t.h, t.w) for t in transforms} == {(h, w) for h in (4, 5) for w in (4, 5, 6)}
    assert {t.x0 + t.w for t in transforms} == set(range(4, 10))


def test_pipelines_survive_a_saved_config(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = L(build_crop_augmentations)(short_sides=[64, 96], crop_range=(40, 60))
    LazyConfig.save(OmegaConf.create({"augmentations": config}), str(tmp_path / "config.yaml"))
    loaded = LazyConfig.load(str(tmp_path / "config.yaml"))
    last = list(instantiate(loaded.augmentations))[-1]
    assert last.short_sides == (64, 96)
    assert repr(last) == "ResizeShortSide(short_sides=(64, 96), max_size=1333)"
