"""Colours that stay apart for colour-blind readers too, and the font that all pictures share."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

RGB = tuple[int, int, int]

# Okabe and Ito, "Color Universal Design", without its yellow, which is lost on white paper.
SERIES_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")

# The same hues, lighter where photographs are dark, for classes that most data sets have few of.
_CLASS_COLORS: tuple[RGB, ...] = (
    (0, 158, 255),
    (255, 112, 20),
    (0, 200, 130),
    (255, 92, 170),
    (255, 196, 0),
    (150, 100, 255),
    (90, 225, 235),
    (175, 215, 40),
    (235, 60, 60),
    (205, 150, 100),
)
_GOLDEN_RATIO = 0.618033988749895


def class_color(index: int) -> RGB:
    """Return the colour of a class, the same in every picture whatever the other classes are.

    The first ten are chosen by hand; further ones go around the colour circle in steps of the
    golden ratio, so that neighbours differ.

    Args:
        index: class index, at least 0.
    """
    if index < len(_CLASS_COLORS):
        return _CLASS_COLORS[index]
    hue = (index * _GOLDEN_RATIO) % 1.0
    lightness = (0.5, 0.62, 0.72)[index % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color_on(background: RGB) -> RGB:
    """Near-black or white, whichever has the higher contrast on ``background`` (WCAG 2.1)."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (16, 16, 16) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


@lru_cache(maxsize=64)
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, so that pictures look alike on all machines.

    Args:
        size: height in pixels.
        bold: whether to take the bold face.
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a text that is at most ``width`` pixels long, with an ellipsis where it is cut off."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
