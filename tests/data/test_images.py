"""The one reader of images: like Detectron2's, with limits."""

from __future__ import annotations

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from sap_detr.data import (
    BadImageError,
    DatasetError,
    DetrDatasetMapper,
    Findings,
    inspect_image,
    max_image_pixels,
    read_image,
)
from sap_detr.data.coco_schema import CocoFile, read_split
from sap_detr.data.files import inspect_files
from sap_detr.data.images import DEFAULT_MAX_PIXELS, LIMIT_VARIABLE


def _pixels(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)


def _check_files(dicts: list[dict[str, Any]], decode: bool = False) -> None:
    findings = Findings("images")
    with ThreadPoolExecutor(2) as pool:
        inspect_files(dicts, findings, pool, decode=decode)
    findings.raise_errors()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares another size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg_claiming(width: int, height: int, path: Path) -> bytes:
    """The same as JPEG."""
    Image.fromarray(_pixels()).save(path, "JPEG")
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(suffix, mode) for suffix in (".png", ".tif") for mode in ("RGB", "L", "P", "RGBA", "1")]
    + [(".jpg", "RGB"), (".jpg", "L"), (".jpg", "CMYK"), (".webp", "RGB"), (".webp", "RGBA")],
)
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_reads_as_detectron2_does(
    tmp_path: Path, mode: str, suffix: str, image_format: str
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(_pixels()).convert(mode).save(path)
    expected = detection_utils.read_image(str(path), image_format)
    np.testing.assert_array_equal(read_image(path, image_format), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_turns_images_as_in_detectron2(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_pixels()).save(path, exif=exif)
    expected = detection_utils.read_image(str(path), "RGB")
    np.testing.assert_array_equal(read_image(path), expected)
    facts = inspect_image(path)
    assert (facts.width, facts.height, facts.orientation) == (30, 20, orientation)
    assert facts.upright_size == expected.shape[1::-1]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("side", [10_001, 60_000])
def test_images_that_claim_to_be_huge_are_not_decoded(
    tmp_path: Path, kind: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb"
    huge = png_claiming(side, side) if kind == "png" else jpeg_claiming(side, side, path)
    path.write_bytes(huge)

    def decode(*_: object) -> None:
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    for read in (read_image, inspect_image):
        with pytest.raises(BadImageError, match=f"limit of {DEFAULT_MAX_PIXELS}") as error:
            read(path)
        assert LIMIT_VARIABLE in str(error.value)
        assert str(path) in str(error.value)


def test_the_limit_holds_everywhere(
    write_coco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    json_file, root = write_coco()
    dicts = list(read_split(CocoFile(json_file, root)).records)
    monkeypatch.setenv(LIMIT_VARIABLE, "1200")  # 40 x 30
    assert max_image_pixels() == 1200
    _check_files(list(read_split(CocoFile(json_file, root)).records), decode=True)
    assert DetrDatasetMapper(True, [])(dicts[0])["image"].shape == (3, 30, 40)
    monkeypatch.setenv(LIMIT_VARIABLE, "1199")
    message = "40x30 .* is more than the limit of 1199"
    with pytest.raises(DatasetError, match=message):
        read_split(CocoFile(json_file, root)).findings.raise_errors()
    with pytest.raises(DatasetError, match=message):
        _check_files(dicts)
    with pytest.raises(BadImageError, match=message):
        DetrDatasetMapper(True, [])(dicts[0])


def test_the_limit_can_be_raised_above_that_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "a.png"
    Image.fromarray(_pixels()).save(path)
    assert read_image(path).shape == (20, 30, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize("value", ["many", "0", "-5", "1e6"])
def test_a_limit_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, value)
    with pytest.raises(DatasetError, match=f"{LIMIT_VARIABLE}='{value}'"):
        max_image_pixels()


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript."""
    path = tmp_path / "a.jpg"
    Image.fromarray(_pixels()).save(path, "EPS")
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("ran a program"))
    with pytest.raises(BadImageError, match="not an image, or of a format other than"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b"text", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
        ("half", "damaged or cut off"),
    ],
)
def test_what_is_wrong_is_said_with_the_name(tmp_path: Path, content, reason: str) -> None:
    path = tmp_path / "a.png"
    if content == "half":
        Image.fromarray(_pixels()).save(path)
        content = path.read_bytes()[:300]
    if content is not None:
        path.write_bytes(content)
    for read in (read_image, inspect_image):
        with pytest.raises(BadImageError, match=rf"a\.png: can't be used as an image: ({reason})"):
            read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(write_coco) -> None:
    json_file, root = write_coco()
    (root / "2.jpg").unlink()
    os.mkfifo(root / "2.jpg")
    with pytest.raises(DatasetError, match=r"image 2 .*is not a file"):
        _check_files(list(read_split(CocoFile(json_file, root)).records))
