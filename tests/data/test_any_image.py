"""Pictures of any kind are found, and read as their files are."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sap_detr.data import BadImageError, PixelRange, find_images, to_pixels

WIDE = np.random.RandomState(0).randint(0, 4096, (5, 7, 4)).astype(np.uint16)


def _file(folder: Path, wide: NDArray[np.uint16] = WIDE, suffix: str = "png") -> Path:
    """Colours of 16 bits, which Pillow can't write."""
    path = folder / f"wide.{suffix}"
    assert cv2.imwrite(str(path), wide[..., [2, 1, 0, 3][: wide.shape[2]]])
    return path


@pytest.mark.parametrize("setting", ["full", "bits=12", "percentile=1"])
@pytest.mark.parametrize("alpha", [0, 4095, 65535])
def test_alpha_of_arrays_is_no_part_of_the_range(tmp_path: Path, setting: str, alpha: int) -> None:
    wide = WIDE.copy()
    wide[..., 3] = alpha
    found = PixelRange.parse(setting)
    pixels = to_pixels(wide, found)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, to_pixels(wide[..., :3], found))
    np.testing.assert_array_equal(pixels, to_pixels(_file(tmp_path, wide), found))


def test_alpha_of_floating_point_may_be_of_another_range() -> None:
    colors = np.random.RandomState(0).rand(4, 5, 3)
    for alpha in (-1.0, 255.0, np.nan):
        with_alpha = np.dstack([colors, np.full((4, 5), alpha)])
        np.testing.assert_array_equal(to_pixels(with_alpha), to_pixels(colors))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_arrays_that_are_all_alpha_are_refused(kind: type) -> None:
    image: NDArray[np.generic] = np.zeros((2, 3, 4), kind)
    assert not to_pixels(image).any()
    image[0, 0, 3] = 1
    with pytest.raises(ValueError, match="all that it shows is in its alpha channel"):
        to_pixels(image)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("setting", ["full", "bits=12", "percentile=1"])
def test_opened_images_are_read_as_their_files(
    tmp_path: Path, suffix: str, channels: int, setting: str
) -> None:
    path, found = _file(tmp_path, WIDE[..., :channels], suffix), PixelRange.parse(setting)
    expected = to_pixels(path, found)
    with Image.open(path) as named, Image.open(io.BytesIO(path.read_bytes())) as nameless:
        np.testing.assert_array_equal(to_pixels(named, found), expected)
        np.testing.assert_array_equal(to_pixels(nameless, found), expected)


def test_opened_images_of_16_bits_are_refused_as_their_files(tmp_path: Path) -> None:
    path, refuse = _file(tmp_path), PixelRange("refuse")
    with Image.open(path) as image, pytest.raises(BadImageError, match=r"wide\.png.*refuse"):
        to_pixels(image, refuse)
    with Image.open(path) as image:
        # Once it is decoded, Pillow has 8 bits.
        image.load()
        np.testing.assert_array_equal(to_pixels(image, refuse), WIDE[..., :3] >> 8)


def test_either_byte_order() -> None:
    np.testing.assert_array_equal(to_pixels(WIDE.astype(">u2")), to_pixels(WIDE))


@pytest.mark.parametrize("given", [(0, np.inf), (0, np.nan), (-np.inf, 1), (-1e308, 1e308), (1, 0)])
def test_value_ranges_without_sense_are_refused(given: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"value_range must be \(black, larger white\), finite, "):
        to_pixels(np.zeros((2, 2)), value_range=given)


@pytest.mark.parametrize("empty", ["", ["a.png", ""]])
def test_empty_names_are_not_the_current_folder(
    empty: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="got an empty name as image; taken are a file"):
        find_images(empty)


def test_links_to_nothing_are_images_that_can_not_be_read(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    for name in ("b.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.png").symlink_to(tmp_path, target_is_directory=True)
    for images in (tmp_path, f"{tmp_path}/*"):
        found = find_images(images)
        assert [Path(image.name).name for image in found] == ["a.png", "b.png"]
        with pytest.raises(BadImageError, match=r"b\.png: .* no such file"):
            to_pixels(found[1].content)
