"""Draws an image of the ``shapes`` data set: shaded, overlapping shapes on a texture.

The order of the random draws and the arithmetic make the pixels: other code, other images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

CLASS_NAMES = ("ellipse", "rectangle", "triangle", "star", "cross", "ring")

SUPERSAMPLING = 4
EMPTY_FRACTION = 0.02
MIN_INSIDE = 0.6
MIN_VISIBLE = 0.5
_PLACEMENT_ATTEMPTS = 12
SMALLEST_RADIUS = 6

Array = NDArray[np.float32]
Points = NDArray[np.float64]
Window = tuple[slice, slice]


@dataclass(frozen=True)
class DrawnShape:
    """One object of an image.

    Args:
        class_index: index into ``CLASS_NAMES``.
        box: XYXY in pixels, tight around the part of the whole shape (also where later shapes cover
            it) that lies in the image, to a quarter of a pixel.
        area: pixels covered by that part.
    """

    class_index: int
    box: tuple[float, ...]
    area: float


@dataclass(frozen=True)
class Stencil:
    """How much of each pixel a shape covers.

    Args:
        window: the rows and columns of the image that ``coverage`` is about.
        coverage: (h, w) in 0..1.
        box: XYXY in pixels of the image.
    """

    window: Window
    coverage: Array
    box: tuple[float, ...]


@dataclass(frozen=True)
class Placement:
    """A shape's geometry.

    Args:
        class_index: index into ``CLASS_NAMES``.
        center, radii: (x, y) in pixels.
        angle: rotation in radians.
        polygons: the outline, and the hole if there is one, (K, 2) in pixels.
    """

    class_index: int
    center: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    polygons: list[Points]

    @classmethod
    def random(
        cls, rng: np.random.RandomState, height: int, width: int, min_radius: int = SMALLEST_RADIUS
    ) -> Placement:
        """Draw a shape, with its centre in an image of this size."""
        class_index = int(rng.randint(len(CLASS_NAMES)))
        unit = _unit_polygons(CLASS_NAMES[class_index], rng)
        largest = max(0.3 * min(height, width), min_radius)
        radius = rng.uniform(math.sqrt(min_radius), math.sqrt(largest)) ** 2
        radii = (radius, radius * rng.uniform(0.6, 1.0))
        angle = rng.uniform(0.0, 2 * math.pi)
        center = (rng.uniform(0.0, width), rng.uniform(0.0, height))
        cos, sin = math.cos(angle), math.sin(angle)
        to_image = np.array([[cos, sin], [-sin, cos]])
        polygons = [points * radii @ to_image + center for points in unit]
        return cls(class_index, center, radii, angle, polygons)

    @property
    def area(self) -> float:
        """Return the area of the outline without the hole, in pixels."""
        outline, *hole = (_polygon_area(points) for points in self.polygons)
        return outline - sum(hole)

    def rasterise(self, height: int, width: int) -> Stencil | None:
        """Rasterise with supersampling; None if the shape lies outside the image."""
        low = np.floor(self.polygons[0].min(axis=0)).astype(int) - 1
        high = np.ceil(self.polygons[0].max(axis=0)).astype(int) + 1
        left, top = np.maximum(low, 0).tolist()
        right, bottom = np.minimum(high, (width, height)).tolist()
        if right <= left or bottom <= top:
            return None
        scale = SUPERSAMPLING
        fine = Image.new("L", ((right - left) * scale, (bottom - top) * scale))
        for polygon, value in zip(self.polygons, (1, 0), strict=False):
            # Pillow's integer coordinates are pixel centres.
            points = (polygon - (left, top)) * scale - 0.5
            ImageDraw.Draw(fine).polygon([(float(x), float(y)) for x, y in points], fill=value)
        mask = np.asarray(fine)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return None
        x0, x1 = (left + float(x) / scale for x in (columns[0], columns[-1] + 1))
        y0, y1 = (top + float(y) / scale for y in (rows[0], rows[-1] + 1))
        blocks = mask.reshape(bottom - top, scale, right - left, scale)
        coverage = blocks.mean(axis=(1, 3), dtype=np.float32)
        return Stencil((slice(top, bottom), slice(left, right)), coverage, (x0, y0, x1, y1))

    def pixel_grid(self, window: Window, offset: float = 0.5) -> tuple[Array, Array]:
        """Return x (1, w) and y (h, 1) of the window's pixels, relative to the centre."""
        rows, columns = (np.arange(s.start, s.stop, dtype=np.float32) for s in window)
        return (columns + offset - self.center[0])[None], (rows + offset - self.center[1])[:, None]

    def local_grid(self, window: Window) -> tuple[Array, Array]:
        """Return the pixel centres (h, w) in the shape's own frame: its outline has radius 1."""
        x, y = self.pixel_grid(window)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u, v = (cos * x + sin * y) / self.radii[0], (cos * y - sin * x) / self.radii[1]
        return u.astype(np.float32), v.astype(np.float32)


def draw_image(
    rng: np.random.RandomState,
    height: int,
    width: int,
    max_objects: int,
    min_radius: int = SMALLEST_RADIUS,
) -> tuple[NDArray[np.uint8], list[DrawnShape]]:
    """Draw one image.

    Shapes are placed from back to front. A new one is given up (after a few tries elsewhere) if
    less than ``MIN_INSIDE`` of its area lies in the image, or if it would leave an earlier one with
    less than ``MIN_VISIBLE`` of its pixels uncovered: so nothing is annotated that can't be seen.

    Args:
        rng: a legacy ``RandomState``, whose streams numpy promises never to change.
        height, width: of the image, in pixels.
        max_objects: at most that many shapes; at least one, but for ``EMPTY_FRACTION`` of the
            images.
        min_radius: of the shapes, in pixels; the largest is 0.3 of the shorter side, or this.

    Returns:
        The image (height, width, 3) RGB, and its shapes from back to front.
    """
    canvas = _draw_background(rng, height, width)
    count = 0 if rng.uniform() < EMPTY_FRACTION else rng.randint(1, max_objects + 1)
    shapes: list[DrawnShape] = []
    visible: list[NDArray[np.bool_]] = []
    totals: list[int] = []
    for _ in range(count):
        for _ in range(_PLACEMENT_ATTEMPTS):
            placement = Placement.random(rng, height, width, min_radius)
            stencil = placement.rasterise(height, width)
            if stencil is None or stencil.coverage.sum() < MIN_INSIDE * placement.area:
                continue
            mask = np.zeros((height, width), dtype=bool)
            mask[stencil.window] = stencil.coverage > 0.5
            remaining = [seen & ~mask for seen in visible]
            if any(r.sum() < MIN_VISIBLE * t for r, t in zip(remaining, totals, strict=True)):
                continue
            paint(rng, canvas, placement, stencil)
            visible = [*remaining, mask]
            totals.append(int(mask.sum()))
            area = float(stencil.coverage.sum())
            shapes.append(DrawnShape(placement.class_index, stencil.box, area))
            break
    canvas += rng.normal(0.0, rng.uniform(0.004, 0.02), size=canvas.shape).astype(np.float32)
    return (np.clip(canvas, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8), shapes


def _polygon_area(points: Points) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _on_circle(count: int, radius: float | Sequence[float] = 1.0) -> Points:
    """Return points (count, 2) around the origin, the first at the top; radii repeat along them."""
    angle = 2 * math.pi * np.arange(count) / count - math.pi / 2
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    scaled: Points = points * np.resize(radius, count)[:, None]
    return scaled


def _unit_polygons(name: str, rng: np.random.RandomState) -> list[Points]:
    """Return the outline of a class, and its hole, with radius 1 around the origin."""
    if name == "rectangle":
        return [np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])]
    if name == "triangle":
        return [_on_circle(3)]
    if name == "star":
        return [_on_circle(10, (1.0, rng.uniform(0.38, 0.5)))]
    if name == "cross":
        arm = rng.uniform(0.24, 0.36)
        quarter = np.array([(arm, -1.0), (arm, -arm), (1.0, -arm)])
        turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
        return [np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])]
    if name == "ring":
        return [_on_circle(72), _on_circle(72, rng.uniform(0.5, 0.68))]
    return [_on_circle(72)]


def _random_color(
    rng: np.random.RandomState, saturation: tuple[float, float], value: tuple[float, float]
) -> Array:
    """Return RGB in 0..1 from a uniform hue and the given ranges."""
    hue, s, v = rng.uniform(), rng.uniform(*saturation), rng.uniform(*value)
    ramp = np.abs((hue * 6.0 + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0
    return (v * (1.0 - s + s * np.clip(ramp, 0.0, 1.0))).astype(np.float32)


def _mix(first: Array, second: Array, amount: Array) -> Array:
    """Blend two colours (3,) by ``amount`` (h, w) into (h, w, 3)."""
    return first + (second - first) * amount[..., None]


def _soft_step(wave: Array, sharpness: float) -> Array:
    """Map a wave in -1..1 to 0..1 with soft edges."""
    step: Array = np.clip(0.5 + sharpness * wave, 0.0, 1.0)
    return step


def _blur(values: Array, radius: float) -> Array:
    image = Image.fromarray((np.clip(values, 0.0, 1.0) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255.0


def _smooth_noise(rng: np.random.RandomState, height: int, width: int, cell: float) -> Array:
    """Return noise (height, width) in 0..1 that varies over about ``cell`` pixels."""
    size = (max(2, round(width / cell) + 1), max(2, round(height / cell) + 1))
    coarse = rng.randint(0, 256, size=size[::-1]).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32) / 255.0


def _draw_background(rng: np.random.RandomState, height: int, width: int) -> Array:
    """Draw a muted texture (height, width, 3) in 0..1: gradient, clouds, stripes or checks."""
    first = _random_color(rng, (0.05, 0.45), (0.3, 0.9))
    second = np.clip(first + rng.uniform(-0.22, 0.22, size=3), 0.05, 0.95).astype(np.float32)
    side = float(max(height, width))
    rows = np.arange(height, dtype=np.float32)[:, None] / side
    columns = np.arange(width, dtype=np.float32)[None, :] / side
    angle = rng.uniform(0.0, 2 * math.pi)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    texture = rng.randint(4)
    frequency = math.pi * rng.uniform(6.0, 22.0)
    if texture == 0:
        amount = (along - along.min()) / (along.max() - along.min())
    elif texture == 1:
        amount = sum(
            weight * _smooth_noise(rng, height, width, side * cell)
            for weight, cell in ((0.55, 0.25), (0.3, 0.1), (0.15, 0.04))
        )
    elif texture == 2:
        amount = _soft_step(np.sin(along * frequency), rng.uniform(0.5, 3.0))
    else:
        checks = np.sin(along * frequency) * np.sin(across * frequency)
        amount = _soft_step(checks, rng.uniform(1.0, 6.0))
    light = 0.85 + 0.3 * _smooth_noise(rng, height, width, side * 0.5)
    return _mix(first, second, np.asarray(amount, dtype=np.float32)) * light[..., None]


def _fill(rng: np.random.RandomState, u: Array, v: Array, radius: float, behind: Array) -> Array:
    """Return colours (h, w, 3) at a shape's own coordinates: solid, gradient, stripes or dots.

    ``behind`` (3,) is the mean colour that the shape covers: the fill is drawn until it stands out.
    """
    candidates = [_random_color(rng, (0.55, 1.0), (0.45, 1.0)) for _ in range(4)]
    contrast = [float(np.abs(color - behind).sum()) for color in candidates]
    main = next((c for c, d in zip(candidates, contrast, strict=True) if d > 0.7), None)
    if main is None:
        main = candidates[int(np.argmax(contrast))]
    other = np.clip(main * rng.uniform(0.45, 0.8) + rng.uniform(0.0, 0.3), 0, 1).astype(np.float32)
    kind = rng.randint(4)
    # Small shapes get few stripes and dots, so that these stay wider than a pixel.
    repeats = min(rng.uniform(2.0, 5.0), radius / 5.0)
    if kind == 0:
        amount = np.zeros(u.shape, dtype=np.float32)
    elif kind == 1:
        amount = np.clip((u + 1) / 2, 0.0, 1.0)
    elif kind == 2:
        amount = _soft_step(np.sin(u * math.pi * repeats), 2.5)
    else:
        dots = np.cos(u * math.pi * repeats) * np.cos(v * math.pi * repeats)
        amount = _soft_step(np.abs(dots) - 0.55, 4.0)
    return _mix(main, other, amount)


def paint(
    rng: np.random.RandomState, canvas: Array, placement: Placement, stencil: Stencil
) -> None:
    """Paint a shape with its shadow onto ``canvas`` (H, W, 3) in place."""
    radius = min(placement.radii)
    margin = math.ceil(0.4 * radius) + 2
    (rows, columns), (height, width) = stencil.window, canvas.shape[:2]
    top, bottom = min(margin, rows.start), min(margin, height - rows.stop)
    left, right = min(margin, columns.start), min(margin, width - columns.stop)
    wide = (
        slice(rows.start - top, rows.stop + bottom),
        slice(columns.start - left, columns.stop + right),
    )
    coverage = np.pad(stencil.coverage, ((top, bottom), (left, right)))

    offset = 1 + round(0.08 * radius)
    shadow = np.zeros_like(coverage)
    shadow[offset:, offset:] = coverage[:-offset, :-offset]
    canvas[wide] *= 1.0 - rng.uniform(0.2, 0.5) * _blur(shadow, 1 + 0.08 * radius)[..., None]

    behind = canvas[stencil.window].mean(axis=(0, 1))
    color = _fill(rng, *placement.local_grid(wide), radius, behind)
    # Light from the top left of the image, and a rim that darkens towards the edge.
    x, y = placement.pixel_grid(wide, offset=0.0)
    light = 1.0 - 0.16 * np.clip((x + y) / (1.4 * max(placement.radii)), -1.0, 1.0)
    rim = 0.55 + 0.45 * np.clip(2.4 * _blur(coverage, 0.6 + 0.06 * radius) - 1.2, 0.0, 1.0)
    color = color * (light * rim)[..., None]
    canvas[wide] += (color - canvas[wide]) * coverage[..., None]
