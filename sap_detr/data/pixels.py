"""What the pixels of an image file become: three channels of 8 bits, for every mode of Pillow.

Order is kept: what is brighter in the file is never darker in the result, and an image that shows
something never becomes a constant one. What can't be converted like that is refused. The table of
the modes is in ``docs/own_data.md``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import DatasetError

# Modes that every conversion to RGB keeps apart, so that nothing has to be looked at.
PLAIN_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
# Pillow converts these by way of the mode that they are a form of.
_BY_WAY_OF = {"La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}
_RGB_MODES = (*PLAIN_MODES, "LA", "PA", "RGBA", "LAB", "HSV")
_TIFF_BITS_PER_SAMPLE = 258
_LEVELS = 256

Values = NDArray[np.generic]


class PixelsError(DatasetError):
    """The pixels of an image can't be converted without losing what they show."""


@dataclass(frozen=True)
class PixelRange:
    """Which values of images of more than 8 bits become black and white.

    In between, values become ``floor(256 * (value - black) / (white - black))``, so that both ways
    of storing 8 bits as 16 (times 256, times 257) give the 8 bits back.

    Args:
        rule: what ``number`` means:

            * "full": all that the file can hold: 16 bits, unless a TIFF says that it has fewer;
              0 to 1 for floating point.
            * "bits": 0 up to 2 to the power of ``number``.
            * "percentile": the percentiles ``number`` and 100 - ``number`` of each image, which
              makes brightness depend on what is in the image.
            * "refuse": such images are errors.
        number: see there; otherwise 0.

    Raises:
        ValueError: if these are none.
    """

    rule: Literal["full", "bits", "percentile", "refuse"] = "full"
    number: float = 0

    def __post_init__(self) -> None:
        allowed = {
            "full": self.number == 0,
            "refuse": self.number == 0,
            "bits": 1 <= self.number <= 32 and self.number == int(self.number),
            "percentile": 0 <= self.number < 50,
        }
        if not allowed.get(self.rule, False):
            raise ValueError(
                "pixel_range must be full, refuse, bits=N (N in 1..32) or percentile=P (P in "
                f"0..50), got {str(self)!r}"
            )

    @classmethod
    def parse(cls, text: str) -> PixelRange:
        """Read ``full``, ``refuse``, ``bits=12`` or ``percentile=0.5``.

        Raises:
            ValueError: if it is none of these.
        """
        match = re.fullmatch(r"(bits|percentile)=(\d+(?:\.\d+)?)", str(text))
        rule, number = (match[1], float(match[2])) if match else (str(text), 0)
        return cls(rule, number)  # type: ignore[arg-type]

    def __str__(self) -> str:
        has_number = self.rule in ("bits", "percentile")
        return f"{self.rule}={self.number:g}" if has_number else self.rule


FULL_RANGE = PixelRange()


def depth(mode: str) -> str:
    """Say what a value of an image of this mode is: "8 bits", "16 bits", "32 bits" or "float".

    Args:
        mode: Pillow's; with ";16" behind it for colours of 16 bits, see :func:`low_byte_tiles`.
    """
    if ";16" in mode:
        return "16 bits"
    return {"I": "32 bits", "F": "float"}.get(mode, "8 bits")


def has_palette_alpha(image: Image.Image) -> bool:
    """Say whether the colours of an image's palette have alpha, so that equal ones may differ."""
    return image.mode == "P" and "transparency" in image.info


def low_byte_tiles(image: Image.Image) -> list[Any]:
    """Return what makes Pillow read the lower bytes of colours of 16 bits; [] for other images.

    Of such colours Pillow keeps the upper bytes only: it is told here that the order is the other.

    Args:
        image: not decoded yet. Its ``tile`` may be set to the result.
    """
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    tiles = []
    for tile in image.tile if image.mode in _RGB_MODES else ():  # type: ignore[attr-defined]
        args = tile[3]
        parts = args if isinstance(args, tuple) else (args,)
        swapped = tuple(
            f"{part[:-1]}{other[part[-1]]}"
            if isinstance(part, str) and re.search(";16[LBN]$", part)
            else part
            for part in parts
        )
        if swapped == parts:
            return []
        tiles.append(tile._replace(args=swapped if isinstance(args, tuple) else swapped[0]))
    return tiles


def raw_values(image: Image.Image, low: Image.Image | None = None) -> Values:
    """Return pixel values (H, W) or (H, W, bands), with 16 bits if the lower bytes are given."""
    values = np.asarray(image)
    return values if low is None else values.astype(np.uint16) << 8 | np.asarray(low)


def to_rgb(
    image: Image.Image, pixel_range: PixelRange = FULL_RANGE, low: Image.Image | None = None
) -> Image.Image:
    """Convert an image of any of Pillow's modes to RGB, as described above.

    Alpha is left out. ``LAB`` is converted to sRGB, ``CMYK`` as Pillow does without profiles.

    Args:
        image: decoded.
        pixel_range: for images of more than 8 bits.
        low: the lower bytes of colours of 16 bits.

    Raises:
        PixelsError: if order would be lost, or the mode is not known.
    """
    mode = image.mode
    if low is not None:
        values = raw_values(image, low)
        colors = values[..., : values.shape[2] - ("A" in image.getbands())]
        require_colors(colors, values)
        levels = to_levels(colors, pixel_range, 2.0**16)
        return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).convert("RGB")
    if has_palette_alpha(image):
        return to_rgb(image.convert("RGBA"), pixel_range)
    if mode in _BY_WAY_OF:
        return to_rgb(image.convert(_BY_WAY_OF[mode]), pixel_range)
    if depth(mode) != "8 bits":
        levels = to_levels(np.asarray(image), pixel_range, _full_range(image))
        return Image.fromarray(levels).convert("RGB")
    if mode not in _RGB_MODES:
        raise PixelsError(f"pixels of mode {mode} can't be converted to RGB")
    if "A" in image.getbands() and mode != "LAB":
        return _without_alpha(image)
    return image.convert("RGB")


def _full_range(image: Image.Image) -> float:
    """Return the value above the highest that an image can hold."""
    if image.mode == "F":
        return 1.0
    bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (16,))[0]
    return float(2 ** min(bits, 16))


def to_levels(values: Values, pixel_range: PixelRange, full: float) -> NDArray[np.uint8]:
    """Convert pixel values to 8 bits.

    Args:
        values: (H, W) or (H, W, bands), whole or floating point.
        pixel_range: what becomes black and white.
        full: the upper end of the range "full".

    Returns:
        The same shape.

    Raises:
        PixelsError: if a value lies outside of the range, or different values become all the same.
    """
    exact: NDArray[Any] = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    if not np.isfinite(exact).all():
        raise PixelsError("it has pixels that are not finite")
    low, high = float(exact.min()), float(exact.max())
    found = f"its pixels go from {low:g} to {high:g}"
    if pixel_range.rule == "refuse":
        raise PixelsError(f"{found}, and pixel_range=refuse allows 8 bits only")
    black, white = 0.0, full
    if pixel_range.rule == "bits":
        white = 2.0**pixel_range.number
    elif pixel_range.rule == "percentile":
        ends = (pixel_range.number, 100 - pixel_range.number)
        black, white = (float(end) for end in np.percentile(exact, ends))
        if black == white:
            black, white = low, high
    elif low < 0 or high > full:
        raise PixelsError(f"{found}, which is not within 0 to {full:g}")
    if pixel_range.rule == "bits" and (low < 0 or high >= white):
        raise PixelsError(f"{found}, which is not within the range of pixel_range={pixel_range}")
    scaled = np.floor((exact - black) * (_LEVELS / (white - black or 1)))
    levels: NDArray[np.uint8] = np.clip(scaled, 0, _LEVELS - 1).astype(np.uint8)
    if _varies(values) and not _varies(levels):
        raise PixelsError(f"{found}, which pixel_range={pixel_range} makes all the same")
    return levels


def _without_alpha(image: Image.Image) -> Image.Image:
    rgb = image.convert("RGB")
    require_colors(np.asarray(rgb), np.asarray(image.getchannel("A")))
    return rgb


def require_colors(colors: Values, with_alpha: Values) -> None:
    """Refuse an image that shows nothing without its alpha channel.

    Raises:
        PixelsError: the colours (H, W, ...) are all the same, and what is with alpha is not.
    """
    if _varies(with_alpha) and not _varies(colors):
        raise PixelsError(
            "all that it shows is in its alpha channel, which is left out; put it on a background"
        )


def _varies(values: Values) -> bool:
    """Say whether the pixels (H, W, ...) are not all the same."""
    return bool((values != values[0, 0]).any())
