"""Reads image files: of the formats that data sets have, of a limited size, upright.

Everything that reads an image does it here, so that one limit holds for training, checks and demo.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from .errors import DatasetError
from .findings import Kind
from .pixels import (
    FULL_RANGE,
    PLAIN_MODES,
    PixelRange,
    PixelsError,
    depth,
    has_palette_alpha,
    low_byte_tiles,
    raw_values,
    to_rgb,
)

# Pillow knows many more; some of them start other programs (EPS), and data sets have none of them.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")

LIMIT_VARIABLE = "SAP_DETR_MAX_IMAGE_PIXELS"
# 10000 x 10000. Decoded, such an image takes 300 MB, in each of the loader's processes.
DEFAULT_MAX_PIXELS = 100_000_000

_EXIF_ORIENTATION = 0x0112
_EXIF_SIDEWAYS = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEAD_BYTES = _TAIL_BYTES = 4096
_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
# Formats that Pillow can decode at a fraction of the size in less time.
_REDUCIBLE = ("JPEG", "MPO")


def max_image_pixels() -> int:
    """Return the most pixels (width times height) that an image may have: 100 million.

    The environment variable ``SAP_DETR_MAX_IMAGE_PIXELS`` sets another limit. What an image's
    header declares is compared with it before any memory is taken for the pixels.

    Raises:
        DatasetError: if the variable is not a positive whole number.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    if not given:
        return DEFAULT_MAX_PIXELS
    try:
        limit = int(given)
    except ValueError:
        limit = 0
    if limit < 1:
        raise DatasetError(f"{LIMIT_VARIABLE}={given!r} is not a positive whole number of pixels")
    return limit


def too_many_pixels(width: int, height: int) -> str | None:
    """Return what to say of an image of this size if it is over the limit, else None."""
    limit = max_image_pixels()
    if width * height <= limit:
        return None
    return f"{width}x{height} (width x height) is more than the limit of {limit} pixels"


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the endings, such as ``.jpg``, of the names of files that can be read."""
    suffixes = Image.registered_extensions()
    return frozenset(suffix for suffix, name in suffixes.items() if name in FORMATS)


class BadImageError(DatasetError):
    """An image file can't be used.

    Args:
        file_name: the file.
        kind: what is wrong with files of this kind.
        reason: what is wrong with this one.
    """

    def __init__(self, file_name: str, kind: Kind, reason: str) -> None:
        super().__init__(file_name, kind, reason)
        self.file_name = file_name
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.file_name}: can't be used as an image: {self.reason}; {self.kind.remedy}"


@dataclass(frozen=True)
class ImageFacts:
    """What the header of an image file says, and a little more.

    Args:
        width, height: in pixels, as stored.
        orientation: EXIF's, 1..8; 1 is upright.
        fingerprint: of the file's length and both ends: files that differ in it differ.
        mode: Pillow's, of the pixels as stored.
        highest: pixel value, of images with more than 8 bits.
    """

    width: int
    height: int
    orientation: int
    fingerprint: str
    mode: str = "RGB"
    highest: float | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Return width and height of the image as it is read."""
        return _upright((self.width, self.height), self.orientation)


def read_image(
    file_name: str | os.PathLike[str],
    image_format: str = "RGB",
    pixel_range: PixelRange = FULL_RANGE,
) -> NDArray[np.uint8]:
    """Read an image of any pixel mode (see :func:`to_rgb`), turned upright by its EXIF data.

    Args:
        file_name: the file, or an address that Detectron2's PathManager knows.
        image_format: order of the channels, "RGB" or "BGR".
        pixel_range: for images of more than 8 bits.

    Returns:
        (H, W, 3), uint8.

    Raises:
        BadImageError: if that is not possible, or the image has more pixels than
            ``max_image_pixels``; no pixel is decoded then.
    """
    with OpenImage(file_name, pixel_range) as image:
        return image.decode(image_format)


class OpenImage:
    """An image file of which little more than the header has been read. Closes the file when left.

    Args:
        file_name: the file, or an address that Detectron2's PathManager knows.
        pixel_range: for images of more than 8 bits.

    Attributes:
        height, width: in pixels, upright.

    Raises:
        BadImageError: as ``read_image`` does, except for damaged pixels.
    """

    def __init__(
        self, file_name: str | os.PathLike[str], pixel_range: PixelRange = FULL_RANGE
    ) -> None:
        self.name = os.fspath(file_name)
        self._pixel_range = pixel_range
        with _faults_of(self.name), contextlib.ExitStack() as on_error:
            self._file = on_error.enter_context(PathManager.open(self.name, "rb"))
            self._image = _open(self._file, self.name)
            tiles = low_byte_tiles(self._image)
            if self._image.format not in _REDUCIBLE:
                # A PNG may say behind the pixels how it has to be turned.
                self._image.load()
            self._low = _read_low_bytes(self._file, self.name, tiles)
            self._orientation = _orientation(self._image)
            on_error.pop_all()
        self.width, self.height = _upright(self._image.size, self._orientation)

    def __enter__(self) -> OpenImage:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def decode(
        self, image_format: str = "RGB", sufficient_size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Read the pixels; works once.

        Args:
            image_format: order of the channels, "RGB" or "BGR".
            sufficient_size: height and width, upright. A JPEG is decoded at 1/2, 1/4 or 1/8 of its
                size, rounded up, if it stays at least as large as that.

        Returns:
            (H, W, 3), uint8.

        Raises:
            BadImageError: if the image is damaged.
        """
        with _faults_of(self.name):
            if sufficient_size is not None:
                height, width = sufficient_size
                self._image.draft(None, _upright((width, height), self._orientation))
            self._image.load()
            image = _turned(to_rgb(self._image, self._pixel_range, self._low), self._orientation)
            pixels: NDArray[np.uint8] = convert_PIL_to_numpy(image, image_format)
            return pixels


def upright_rgb(image: Image.Image, pixel_range: PixelRange = FULL_RANGE) -> Image.Image:
    """Convert an image of Pillow's to RGB, turned upright by its EXIF data, as files are read.

    Args:
        image: of any mode. One that was opened and nothing else is the same as its file. Of
            colours of 16 bits Pillow keeps the upper bytes only: once it is decoded, or at a later
            frame, it is an image of 8 bits, to which ``pixel_range`` does not apply.
        pixel_range: for images of more than 8 bits.

    Raises:
        BadImageError: if the image is damaged, or order would be lost.
    """
    with _faults_of(getattr(image, "filename", "") or "the PIL image"):
        low = _low_bytes_of(image)
        image.load()
        return _turned(to_rgb(image, pixel_range, low), _orientation(image))


def _low_bytes_of(image: Image.Image) -> Image.Image | None:
    """Return the lower bytes of colours of 16 bits of an image that is not decoded yet."""
    if not isinstance(image, ImageFile.ImageFile) or image.format not in FORMATS or image.tell():
        return None
    tiles, stream = low_byte_tiles(image), image.fp
    if not tiles or stream is None:
        return None
    # Of a copy, as the stream may have no name, and Pillow goes on where it is.
    place = stream.tell()
    stream.seek(0)
    low = Image.open(io.BytesIO(stream.read()), formats=[image.format])
    stream.seek(place)
    low.tile = tiles
    low.load()
    return low


def inspect_image(
    file_name: str | os.PathLike[str],
    decode: bool = False,
    pixel_range: PixelRange = FULL_RANGE,
) -> ImageFacts:
    """Look at an image's header and at the end of its file, which shows whether it was cut off.

    Where it depends on the pixels whether they can be used, they are decoded.

    Args:
        file_name: the file.
        decode: decode the pixels as well, which finds any damage but takes long.
        pixel_range: for images of more than 8 bits.

    Raises:
        BadImageError: as ``read_image`` does.
    """
    name = os.fspath(file_name)
    with _faults_of(name), open(name, "rb") as file:
        known_by, tail = _ends(file)
        image = _open(file, name)
        tiles = low_byte_tiles(image)
        size, orientation = image.size, _orientation(image)
        # Without the mark that ends an image, decoding shows whether it was cut off.
        mark = _END_MARKS.get(image.format or "")
        if decode or mark is None or mark not in tail:
            image.load()
        if image.format == "TIFF":
            # Pillow has turned it.
            size = _upright(image.size, orientation)
        mode, highest = image.mode + ";16" * bool(tiles), None
        if mode not in PLAIN_MODES or has_palette_alpha(image):
            image.load()
            low = _read_low_bytes(file, name, tiles)
            to_rgb(image, pixel_range, low)
            if depth(mode) != "8 bits":
                highest = float(raw_values(image, low).max())
    return ImageFacts(*size, orientation, known_by, mode, highest)


def fingerprint(file_name: str | os.PathLike[str]) -> str:
    """Return the fingerprint of a file, see :class:`ImageFacts`.

    Raises:
        OSError: if it can't be read.
    """
    with open(file_name, "rb") as file:
        return _ends(file)[0]


def _ends(file: IO[bytes]) -> tuple[str, bytes]:
    """Return the fingerprint of an open file, and its end; what is read next is its beginning."""
    length = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD_BYTES)
    file.seek(max(0, length - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    file.seek(0)
    return f"{length}-{hashlib.blake2b(head + tail, digest_size=16).hexdigest()}", tail


def _read_low_bytes(file: IO[bytes], name: str, tiles: list[Any]) -> Image.Image | None:
    """Return what ``low_byte_tiles`` describes; None if that is nothing."""
    if not tiles:
        return None
    file.seek(0)
    image = _open(file, name)
    image.tile = tiles  # type: ignore[attr-defined]
    image.load()
    return image


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Turn width and height as EXIF's orientation asks for."""
    return size[::-1] if orientation in _EXIF_SIDEWAYS else size


@contextlib.contextmanager
def _faults_of(name: str) -> Iterator[None]:
    """Make a BadImageError of everything that reading a file can raise."""
    try:
        yield
    except PixelsError as error:
        raise BadImageError(name, Kind.UNUSABLE_PIXELS, str(error)) from error
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise BadImageError(name, Kind.MISSING_FILE, "there is no such file") from error
    except UnidentifiedImageError as error:
        what = f"not an image, or of a format other than {', '.join(FORMATS)}"
        raise BadImageError(name, Kind.NOT_AN_IMAGE, what) from error
    except Exception as error:  # damaged files make Pillow fail with nearly any exception
        what = f"damaged or cut off ({type(error).__name__}: {error})"
        raise BadImageError(name, Kind.DAMAGED_FILE, what) from error


def _open(file: IO[bytes], name: str) -> Image.Image:
    """Return the image with nothing but its header read, if it is within the limit."""
    limit = max_image_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        # Pillow's own limit, which it warns about, and which it refuses when it is doubled.
        Image.MAX_IMAGE_PIXELS = limit
    try:
        image = Image.open(file, formats=_known_formats())
    except Image.DecompressionBombError as error:
        what = f"its size is more than the limit of {limit} pixels"
        raise BadImageError(name, Kind.TOO_LARGE, what) from error
    except UnidentifiedImageError:
        file.seek(0)
        if not file.read(1):
            raise BadImageError(name, Kind.EMPTY_FILE, "the file is empty") from None
        raise
    too_large = too_many_pixels(*image.size)
    if too_large is not None:
        raise BadImageError(name, Kind.TOO_LARGE, too_large)
    return image


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that the installed Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    # Pillow decodes a whole PNG to look for EXIF data behind the pixels.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        # Detectron2, too, reads an image with broken EXIF data as it is stored.
        return 1
