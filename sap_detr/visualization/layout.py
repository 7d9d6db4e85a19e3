"""Put pictures and lines of text below and beside each other: what all sheets are made of."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps
from PIL.ImageFont import FreeTypeFont

from .palette import RGB, shorten

Picture = Image.Image

PAPER, INK, MUTED = (255, 255, 255), (34, 34, 34), (110, 110, 110)
# In pixels: around a sheet, the height of a line of text, between pictures, and between groups.
MARGIN, LINE, GAP, WIDE_GAP = 24, 24, 8, 20


def below(pictures: Sequence[Picture], gap: int = 0) -> Picture:
    """Return pictures, at least one, below each other, with their left edges in line."""
    starts = [0, *accumulate(picture.height + gap for picture in pictures)]
    paper = Image.new("RGB", (max(p.width for p in pictures), starts[-1] - gap), PAPER)
    for picture, y in zip(pictures, starts, strict=False):
        paper.paste(picture, (0, y))
    return paper


def beside(pictures: Sequence[Picture], gap: int = 0) -> Picture:
    """Return pictures, at least one, beside each other, with their upper edges in line."""
    starts = [0, *accumulate(picture.width + gap for picture in pictures)]
    paper = Image.new("RGB", (starts[-1] - gap, max(p.height for p in pictures)), PAPER)
    for picture, x in zip(pictures, starts, strict=False):
        paper.paste(picture, (x, 0))
    return paper


def flow(pictures: Iterable[Picture], width: int, gap: int) -> Picture:
    """Return pictures beside each other as words in lines of at most this width."""
    lines: list[list[Picture]] = []
    for picture in pictures:
        if lines and sum(p.width + gap for p in lines[-1]) + picture.width <= width:
            lines[-1].append(picture)
        else:
            lines.append([picture])
    return below([beside(line, gap) for line in lines])


def text_line(text: str, font: FreeTypeFont, color: RGB = INK, width: float = math.inf) -> Picture:
    """Return a line of text, cut off with an ellipsis where it is longer than ``width`` pixels."""
    text = shorten(text, font, width)
    line = Image.new("RGB", (math.ceil(font.getlength(text)), LINE), PAPER)
    ImageDraw.Draw(line).text((0, LINE / 2), text, font=font, fill=color, anchor="lm")
    return line


def paragraph(text: str, font: FreeTypeFont, color: RGB, width: int) -> Picture:
    """Return text, not empty, in lines of at most this width, but for words that are longer."""
    words = [text_line(word, font, color) for word in text.split()]
    return flow(words, width, round(font.getlength(" ")))


def swatch(color: RGB) -> Picture:
    """Return a small square, as high as a line of text, that explains a colour."""
    return on_line(Image.new("RGB", (12, 12), color))


def on_line(picture: Picture) -> Picture:
    """Return a picture in the middle of a line of text."""
    return ImageOps.pad(picture, (picture.width, LINE), color=PAPER)


def save_sheet(content: Picture, out_png: str | os.PathLike[str]) -> Path:
    """Write a sheet with a margin around its content; return the file."""
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    ImageOps.expand(content, MARGIN, PAPER).save(out)
    return out
