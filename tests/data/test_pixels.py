"""Every pixel mode of Pillow becomes RGB in order, or is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sap_detr.config import ConfigError, load_config, pixel_range
from sap_detr.data import (
    BadImageError,
    DatasetError,
    DetrDatasetMapper,
    Kind,
    PixelRange,
    PixelsError,
    check_datasets,
    inspect_image,
    read_image,
    register_coco,
)
from sap_detr.data.pixels import to_rgb

Write = Callable[..., tuple[Path, Path]]


def _gray(values: NDArray[Any], mode: str | None = None) -> NDArray[np.uint8]:
    """What a row of values becomes, checked to be gray."""
    image = Image.fromarray(np.asarray(values)[None])
    assert mode is None or image.mode == mode
    return _levels(image)


def _levels(image: Image.Image, setting: str = "full") -> NDArray[np.uint8]:
    pixels = np.asarray(to_rgb(image, PixelRange.parse(setting)))[0]
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[:, :1]).all()
    return pixels[:, 0]


def _row(mode: str, *values: Any) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    return image


RGB = [(0, 0, 0), (255, 255, 255), (200, 40, 90), (199, 40, 90)]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (_row("1", 0, 255), [(0,) * 3, (255,) * 3]),
        (_row("L", 0, 1, 128, 255), [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]),
        (_row("LA", (0, 255), (7, 0), (255, 128)), [(0,) * 3, (7,) * 3, (255,) * 3]),
        (_row("La", (0, 255), (7, 255), (100, 255)), [(0,) * 3, (7,) * 3, (100,) * 3]),
        (_row("RGB", *RGB), RGB),
        (_row("RGBX", *[(*c, 9) for c in RGB]), RGB),
        (_row("RGBA", *[(*c, 50) for c in RGB]), RGB),
        (_row("RGBa", *[(*c, 255) for c in RGB]), RGB),
        (_row("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), [(255,) * 3, (0,) * 3]),
        (_row("CMYK", (255, 0, 0, 0), (0, 9, 0, 0)), [(0, 255, 255), (255, 246, 255)]),
        (_row("YCbCr", (0, 128, 128), (77, 128, 128)), [(0,) * 3, (77,) * 3]),
        (_row("HSV", (0, 0, 0), (0, 255, 255), (0, 0, 80)), [RGB[0], (255, 0, 0), (80,) * 3]),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)  # fmt: skip
def test_modes_of_8_bits(image: Image.Image, expected: list[tuple[int, ...]]) -> None:
    assert np.asarray(to_rgb(image))[0].tolist() == [list(color) for color in expected]


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_palettes(mode: str) -> None:
    image = _row("RGB", *RGB).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(np.asarray(to_rgb(image.convert(mode)))[0], RGB)


def test_lab_is_the_colour_that_was_meant() -> None:
    color = (200, 40, 90)
    lab = Image.new("RGB", (2, 1), color).convert("LAB")
    np.testing.assert_allclose(np.asarray(to_rgb(lab))[0, 0], color, atol=3)
    gray = np.asarray(to_rgb(_row("LAB", *[(lightness, 128, 128) for lightness in range(256)])))[0]
    assert (np.diff(gray.astype(int), axis=0) >= 0).all()
    np.testing.assert_allclose(gray[[0, 138, 255], 1], [0, 130, 255], atol=1)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_16_bits_of_either_byte_order(mode: str) -> None:
    values = [0, 255, 256, 1000, 22616, 35723, 65279, 65280, 65535]
    dtype = {"I;16B": ">u2", "I": "<i4"}.get(mode, "<u2")
    data = np.array(values, dtype).tobytes()
    raw = {"I": "I"}.get(mode, mode)
    image = Image.frombytes(mode, (len(values), 1), data, "raw", raw)
    assert _levels(image).tolist() == [v // 256 for v in values]


@pytest.mark.parametrize("factor", [256, 257])
def test_8_bits_stored_as_16_come_back(factor: int) -> None:
    values = np.arange(256)
    np.testing.assert_array_equal(_gray((values * factor).astype(np.uint16), "I;16"), values)


@pytest.mark.parametrize("divisor", [255, 256])
def test_8_bits_stored_as_fractions_come_back(divisor: int) -> None:
    values = np.arange(256)
    np.testing.assert_array_equal(_gray((values / divisor).astype(np.float32), "F"), values)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_bits_that_are_used(bits: int, kind: type) -> None:
    values = np.arange(0, 2**bits, 2**bits // 256)
    image = Image.fromarray(values.astype(kind)[None])
    np.testing.assert_array_equal(_levels(image, f"bits={bits}"), np.arange(256))
    top = Image.fromarray(np.array([[0, 2**bits]]).astype(np.float32))
    with pytest.raises(PixelsError, match=f"go from 0 to .* pixel_range=bits={bits}"):
        _levels(top, f"bits={bits}")


def test_tiff_that_says_how_many_bits_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    # Two pixels of 12 bits are three bytes.
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x10])
    _write_tiff(path, width=4, bits=12, data=packed)
    assert read_image(path)[0, :, 0].tolist() == [0, 128, 255, 1]


def _write_tiff(path: Path, width: int, bits: int, data: bytes) -> None:
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, 1), (277, 1), (278, 1)]
    tags += [(273, 8), (279, len(data))]
    entries = b"".join(
        np.array([tag, 3], "<u2").tobytes() + np.array([1, value], "<u4").tobytes()
        for tag, value in sorted(tags)
    )
    head = b"II*\0" + np.array([8 + len(data)], "<u4").tobytes()
    count = np.array([len(tags)], "<u2").tobytes()
    path.write_bytes(head + data + count + entries + b"\0\0\0\0")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("setting", ["percentile=0", "percentile=10"])
def test_percentiles_stretch_each_image(kind: type, setting: str) -> None:
    values = np.arange(1000, 1101)
    levels = _levels(Image.fromarray(values.astype(kind)[None]), setting)
    assert (np.diff(levels.astype(int)) >= 0).all()
    share = float(setting.partition("=")[2]) / 100
    assert (levels == 0).sum() == pytest.approx(share * 100 + 1, abs=1)
    assert levels[0] == 0
    assert levels[-1] == 255
    # Fewer pixels than the percentile leaves out.
    few = np.zeros((1, 500), kind)
    few[0, 3] = 200
    assert _levels(Image.fromarray(few), setting).max() == 255


@pytest.mark.parametrize("setting", ["full", "bits=16", "percentile=1"])
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_order_is_kept_and_nothing_becomes_constant(kind: type, setting: str) -> None:
    random = np.random.RandomState(0)
    limit = 1 if kind is np.float32 and setting == "full" else 60000
    for spread, base in itertools.product((1e-4, 0.01, 0.5), (0, 0.1, 0.4)):
        values = ((base + spread * random.rand(200)) * limit).astype(kind)
        try:
            levels = _levels(Image.fromarray(values[None]), setting)
        except PixelsError:
            assert np.ptp(values) < limit / 255
            continue
        assert (np.diff(levels[np.argsort(values)].astype(int)) >= 0).all()
        assert np.ptp(levels) > 0 or np.ptp(values) == 0


@pytest.mark.parametrize(
    ("values", "setting", "said"),
    [
        (np.array([-1, 5], np.int32), "full", "go from -1 to 5, which is not within 0 to 65536"),
        (np.array([0, 70000], np.int32), "full", "70000"),
        (np.array([0, 255], np.float32), "full", "not within 0 to 1"),
        (np.array([0, np.nan], np.float32), "percentile=1", "not finite"),
        (np.array([0, 4096], np.uint16), "bits=12", "bits=12"),
        (np.array([1000, 1010], np.uint16), "full", "all the same"),
        (np.array([0, 65535], np.uint16), "refuse", "refuse"),
    ],
)
def test_refused(values: NDArray[Any], setting: str, said: str, tmp_path: Path) -> None:
    image, path = Image.fromarray(values[None]), tmp_path / "a.tif"
    image.save(path)
    found = PixelRange.parse(setting)
    for read in (
        lambda: read_image(path, pixel_range=found),
        lambda: inspect_image(path, pixel_range=found),
        lambda: DetrDatasetMapper(False, [], pixel_range=setting)({"file_name": str(path)}),
    ):
        with pytest.raises(BadImageError, match=said) as error:
            read()
        assert error.value.kind is Kind.UNUSABLE_PIXELS
        assert str(path) in str(error.value)
        assert "dataloader.pixel_range" in str(error.value)


def test_constant_images_stay_constant() -> None:
    for kind in (np.uint16, np.int32, np.float32):
        assert (_levels(Image.fromarray(np.zeros((1, 4), kind)), "percentile=1") == 0).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_image_that_is_all_alpha(mode: str) -> None:
    image = Image.new(mode, (2, 1))
    assert np.asarray(to_rgb(image)).max() == 0
    image.putalpha(_row("L", 0, 255))
    with pytest.raises(PixelsError, match="alpha"):
        to_rgb(image)


def test_palette_that_is_all_alpha(tmp_path: Path) -> None:
    path, image = tmp_path / "a.png", Image.new("P", (2, 1))
    image.putdata([0, 1])
    image.putpalette([0] * 6)
    assert np.asarray(to_rgb(image)).max() == 0
    image.save(path, transparency=b"\0\xff")
    for read in (read_image, inspect_image):
        with pytest.raises(BadImageError, match="alpha"):
            read(path)
    image.putpalette([0, 0, 0, 7, 8, 9])
    image.save(path, transparency=b"\0\xff")
    assert read_image(path)[0].tolist() == [[0, 0, 0], [7, 8, 9]]


def test_settings() -> None:
    for text in ("full", "refuse", "bits=12", "percentile=0.5"):
        assert str(PixelRange.parse(text)) == text
    for text in ("", "ful", "bits", "bits=0", "bits=33", "bits=1.5", "percentile=50", "bits=x"):
        with pytest.raises(ValueError, match="pixel_range must be"):
            PixelRange.parse(text)
    cfg = load_config("detr/detr_small_custom.py", ["dataloader.pixel_range=bits=12"])
    assert pixel_range(cfg) == PixelRange("bits", 12)
    for part in (cfg.dataloader.train, cfg.dataloader.test):
        assert part.mapper.pixel_range == "bits=12"
    cfg.dataloader.pixel_range = "dark"
    with pytest.raises(ConfigError, match=r"dataloader\.pixel_range must be"):
        pixel_range(cfg)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_mapper_and_reader_agree(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    values = np.random.RandomState(0).randint(0, 2**16, (9, 8)).astype(np.uint16)
    Image.fromarray(values).save(path)
    expected = np.repeat((values >> 8)[..., None], 3, 2)
    np.testing.assert_array_equal(read_image(path), expected)
    for reader in ("pil", "fast"):
        mapped = DetrDatasetMapper(False, [], reader=reader)({"file_name": str(path)})
        np.testing.assert_array_equal(mapped["image"].permute(1, 2, 0), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_tiff(tmp_path: Path, orientation: int) -> None:
    path, exif = tmp_path / "a.tif", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) << 8).save(path, exif=exif)
    pixels, facts = read_image(path), inspect_image(path)
    assert facts.upright_size == pixels.shape[1::-1]
    assert (facts.width, facts.height) == (6, 4)


def _gray_set(write_coco: Write, depths: list[type], top: int = 40) -> tuple[Path, Path]:
    json_file, root = write_coco()
    content = json.loads(json_file.read_text())
    for index, (image, kind) in enumerate(zip(content["images"], depths, strict=True)):
        image["file_name"] = f"{index}.tif"
        values = np.arange(1200).reshape(30, 40) % top
        Image.fromarray((values + (kind is not np.uint8) * 300).astype(kind)).save(
            root / image["file_name"]
        )
    json_file.write_text(json.dumps(content))
    return json_file, root


def test_sets_that_mix_depths_are_named(write_coco: Write) -> None:
    files = _gray_set(write_coco, [np.uint16, np.uint8, np.uint16], 40000)
    register_coco("pets", *files)
    (split,) = check_datasets(["pets"]).splits
    (finding,) = [f for f in split.findings.of() if f.kind is Kind.MIXED_DEPTHS]
    assert finding.count == 1
    assert "1.tif" in str(finding.examples[0])
    assert "8 bits, most have 16 bits" in str(finding.examples[0])


def test_few_bits_are_said_with_the_setting(write_coco: Write) -> None:
    register_coco("pets", *_gray_set(write_coco, [np.uint16] * 3, 700))
    (warning,) = (w for w in check_datasets(["pets"]).warnings() if "dark" in w)
    assert "pixel_range=bits=10" in warning
    found = check_datasets(["pets"], pixel_range=PixelRange("bits", 10)).warnings()
    assert not any("dark" in w for w in found)


def test_check_refuses_what_training_would(write_coco: Write) -> None:
    register_coco("pets", *_gray_set(write_coco, [np.float32] * 3))
    with pytest.raises(DatasetError, match=r"pixels go from 300 to 339.*(?s:.*)pixel_range"):
        check_datasets(["pets"])
    check_datasets(["pets"], pixel_range=PixelRange("bits", 9))


def _write_wide(path: Path, colors: NDArray[np.uint16]) -> None:
    """Colours (H, W, 3 or 4) of 16 bits, which Pillow can't write."""
    order = [2, 1, 0, 3][: colors.shape[2]]
    assert cv2.imwrite(str(path), colors[..., order])


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"a.{suffix}"
    wide = np.random.RandomState(0).randint(0, 2**16, (5, 7, channels)).astype(np.uint16)
    _write_wide(path, wide)
    np.testing.assert_array_equal(read_image(path), wide[..., :3] >> 8)
    facts = inspect_image(path)
    assert facts.mode.endswith(";16")
    assert facts.highest == wide.max()
    twelve = wide >> 4
    _write_wide(path, twelve)
    found = read_image(path, pixel_range=PixelRange("bits", 12))
    np.testing.assert_array_equal(found, twelve[..., :3] >> 4)
    for refused in (PixelRange("refuse"), PixelRange("bits", 11)):
        with pytest.raises(BadImageError, match="pixel_range="):
            inspect_image(path, pixel_range=refused)
    # The upper bytes are all the same.
    narrow = np.full_like(wide, 30000) + wide % 10
    narrow[..., 3:] = 65535
    _write_wide(path, narrow)
    with pytest.raises(BadImageError, match="all the same"):
        read_image(path)
    stretched = read_image(path, pixel_range=PixelRange("percentile", 0))
    assert len(np.unique(stretched)) == 10
