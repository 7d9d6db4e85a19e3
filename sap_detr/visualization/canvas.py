"""Draw at fractions of an image into a picture of a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .palette import RGB, load_font
from .pixels import Pixels

Region = tuple[float, float, float, float]
Floats = NDArray[np.floating]

_DARK = (20, 20, 20)
_MOST_PIXELS = 5e7  # of an enlarged picture


@dataclass(frozen=True)
class View:
    """A rectangle of an image, shown in a picture.

    Attributes:
        region: XYXY as fractions of the image; what is outside of the image stays empty.
        size: (width, height) of the picture in pixels.
    """

    region: Region
    size: tuple[int, int]

    @classmethod
    def around(
        cls,
        box: Floats | Sequence[float],
        image: Pixels,
        size: tuple[int, int],
        centred: bool = False,
    ) -> View:
        """Return the smallest view of a box, XYXY in fractions, without distortion.

        Args:
            box: what must be seen.
            image: (H, W, 3).
            size: (width, height) of the picture.
            centred: have the box in the middle, even if the view leaves the image; else the view
                is moved into the image as far as possible.
        """
        height, width = image.shape[:2]
        unit = max((box[2] - box[0]) * width / size[0], (box[3] - box[1]) * height / size[1])
        region = []
        for axis, length in enumerate((width, height)):
            shown = unit * size[axis] / length
            low = (box[axis] + box[axis + 2] - shown) / 2
            if not centred:
                low = (1 - shown) / 2 if shown > 1 else float(np.clip(low, 0, 1 - shown))
            region.append((low, low + shown))
        (x0, x1), (y0, y1) = region
        return cls((x0, y0, x1, y1), size)

    def magnification(self, other: View) -> float:
        """Return how much larger than in another view of the same image things are."""
        shown, others = (v.size[0] / (v.region[2] - v.region[0]) for v in (self, other))
        return shown / others

    def to_pixels(self, xy: Floats) -> NDArray[np.float64]:
        """Map (..., 2) fractions of the image, or (..., 4) boxes, to pixels of the picture."""
        repeat = xy.shape[-1] // 2
        low, high = np.array(self.region[:2] * repeat), np.array(self.region[2:] * repeat)
        pixels: NDArray[np.float64] = (xy - low) / (high - low) * np.array(self.size * repeat)
        return pixels

    def show(self, array: NDArray[Any], empty: float | RGB) -> NDArray[Any]:
        """Resample an array that covers the whole image, smoothly.

        Args:
            array: (H, W) float32, or (H, W, 3) uint8; H and W need not be those of the image.
            empty: value of pixels outside of the image.

        Returns:
            (height, width) or (height, width, 3) of the picture.
        """
        inside = np.clip(self.region, 0, 1)
        x0, y0, x1, y1 = self.to_pixels(inside).round().astype(int)
        picture = np.empty((self.size[1], self.size[0], *array.shape[2:]), array.dtype)
        picture[:] = empty
        if x1 > x0 and y1 > y0:
            source = inside * np.array(array.shape[1::-1] * 2)
            resized = Image.fromarray(array).resize(
                (x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=tuple(source)
            )
            picture[y0:y1, x0:x1] = np.asarray(resized)
        return picture


class Canvas:
    """Draws at fractions of an image into a view of it, smoothly: enlarged, and reduced at the end.

    What is not finite is left out.

    Args:
        pixels: (H, W, 3), RGB, of the view; they are not changed.
        view: what part of the image the pixels show.
    """

    def __init__(self, pixels: Pixels, view: View) -> None:
        self.view = view
        height, width = pixels.shape[:2]
        self._scale = int(np.clip((_MOST_PIXELS / (width * height)) ** 0.5, 1, 4))
        size = (width * self._scale, height * self._scale)
        self._picture = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
        self._draw = ImageDraw.Draw(self._picture, "RGBA")

    @property
    def pixels(self) -> Pixels:
        """(H, W, 3), RGB."""
        return np.asarray(self._picture.reduce(self._scale))

    def line(self, xy: Floats, color: RGB, width: float, opacity: float = 1.0) -> None:
        """Draw a line through points (n, 2)."""
        if np.isfinite(xy).all():
            fill = (*color, round(255 * opacity))
            places, thickness = self._to_places(xy).ravel().tolist(), round(width * self._scale)
            self._draw.line(places, fill, thickness, joint="curve")

    def rectangle(self, box: Floats, color: RGB, width: float, opacity: float = 1.0) -> None:
        """Draw the outline of a box, XYXY; the middle of the line is on its border."""
        if np.isfinite(box).all():
            outline = (*color, round(255 * opacity))
            corners, thickness = self._to_places(box.reshape(2, 2)), round(width * self._scale)
            low, high = corners.min(0) - thickness / 2, corners.max(0) + thickness / 2
            self._draw.rectangle((*low, *high), outline=outline, width=thickness)

    def dot(self, xy: Floats, radius: float, color: RGB, rim: RGB | None = None) -> None:
        """Draw a disc at a point (2,), with a dark edge, and inside of that a rim if one is given.

        The radius in pixels is that of the disc.
        """
        edge, rim_width = max(1.0, radius / 10), max(1.5, radius / 5) if rim else 0.0
        for size, fill in (
            (radius + rim_width + edge, _DARK),
            (radius + rim_width, rim or color),
            (radius, color),
        ):
            if np.isfinite(xy).all():
                place, reach = self._to_places(xy), size * self._scale
                self._draw.ellipse((*(place - reach), *(place + reach)), fill)

    def text(self, xy: Floats, text: str, size: int, color: RGB) -> None:
        """Write bold text around a point (2,)."""
        if np.isfinite(xy).all():
            font = load_font(size * self._scale, bold=True)
            self._draw.text(tuple(self._to_places(xy)), text, color, font, anchor="mm")

    def _to_places(self, xy: Floats) -> Floats:
        """Map (..., 2) fractions of the image to the enlarged picture, or to the far outside."""
        return np.clip(self.view.to_pixels(xy), -10_000, 30_000) * self._scale
