"""Draws an image of the ``shapes`` data set: shaded, overlapping shapes on a texture."""

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
    box: tuple[float, float, float, float]
    area: float


@dataclass(frozen=True)
class _Stencil:
    """How much of each pixel a shape covers.

    Args:
        left, top: the first pixel of the window that ``coverage`` is about.
        coverage: (h, w) in 0..1.
        box: XYXY in pixels of the image.
    """

    left: int
    top: int
    coverage: Array
    box: tuple[float, float, float, float]

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.coverage.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass(frozen=True)
class _Placement:
    """A shape's geometry.

    Args:
        class_index: index into ``CLASS_NAMES``.
        center, radii: (x, y) in pixels.
        angle: rotation in radians.
        outline, hole: polygons (K, 2) in pixels.
    """

    class_index: int
    center: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    outline: NDArray[np.float64]
    hole: NDArray[np.float64] | None

    @property
    def area(self) -> float:
        return _polygon_area(self.outline) - (
            0.0 if self.hole is None else _polygon_area(self.hole)
        )

    def local_grid(self, window: tuple[slice, slice]) -> tuple[Array, Array]:
        """The window's pixel centres in the shape's own frame, where its outline has radius 1."""
        rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] + 0.5
        columns = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :] + 0.5
        x, y = columns - self.center[0], rows - self.center[1]
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
            placement = _random_placement(rng, height, width, min_radius)
            stencil = _stencil(placement, height, width)
            if stencil is None or stencil.coverage.sum() < MIN_INSIDE * placement.area:
                continue
            mask = np.zeros((height, width), dtype=bool)
            mask[stencil.window] = stencil.coverage > 0.5
            remaining = [seen & ~mask for seen in visible]
            if any(r.sum() < MIN_VISIBLE * t for r, t in zip(remaining, totals, strict=True)):
                continue
            _paint(rng, canvas, placement, stencil)
            visible = [*remaining, mask]
            totals.append(int(mask.sum()))
            area = float(stencil.coverage.sum())
            shapes.append(DrawnShape(placement.class_index, stencil.box, area))
            break
    canvas += rng.normal(0.0, rng.uniform(0.004, 0.02), size=canvas.shape).astype(np.float32)
    return (np.clip(canvas, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8), shapes


def _polygon_area(points: NDArray[np.float64]) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _on_circle(count: int, radius: float | Sequence[float] = 1.0) -> NDArray[np.float64]:
    """``count`` points around the origin, the first at the top; radii repeat along the points."""
    angle = 2 * math.pi * np.arange(count) / count - math.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.resize(radius, count)[:, None]


def _unit_shape(
    name: str, rng: np.random.RandomState
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Outline and hole of a class, with radius 1 around the origin."""
    if name == "ellipse":
        return _on_circle(72), None
    if name == "rectangle":
        return np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]), None
    if name == "triangle":
        return _on_circle(3), None
    if name == "star":
        return _on_circle(10, (1.0, rng.uniform(0.38, 0.5))), None
    if name == "cross":
        arm = rng.uniform(0.24, 0.36)
        quarter = np.array([(arm, -1.0), (arm, -arm), (1.0, -arm)])
        turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
        return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)]), None
    return _on_circle(72), _on_circle(72, rng.uniform(0.5, 0.68))


def _random_placement(
    rng: np.random.RandomState, height: int, width: int, min_radius: int = SMALLEST_RADIUS
) -> _Placement:
    class_index = int(rng.randint(len(CLASS_NAMES)))
    outline, hole = _unit_shape(CLASS_NAMES[class_index], rng)
    largest = max(0.3 * min(height, width), min_radius)
    radius = rng.uniform(math.sqrt(min_radius), math.sqrt(largest)) ** 2
    radii = (radius, radius * rng.uniform(0.6, 1.0))
    angle = rng.uniform(0.0, 2 * math.pi)
    center = (rng.uniform(0.0, width), rng.uniform(0.0, height))
    cos, sin = math.cos(angle), math.sin(angle)
    to_image = np.array([[cos, sin], [-sin, cos]])

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points * radii @ to_image + center

    return _Placement(
        class_index, center, radii, angle, place(outline), None if hole is None else place(hole)
    )


def _stencil(placement: _Placement, height: int, width: int) -> _Stencil | None:
    """Rasterise with supersampling; None if the shape lies outside the image."""
    low = np.floor(placement.outline.min(axis=0)).astype(int) - 1
    high = np.ceil(placement.outline.max(axis=0)).astype(int) + 1
    left, top = np.maximum(low, 0).tolist()
    right, bottom = np.minimum(high, (width, height)).tolist()
    if right <= left or bottom <= top:
        return None
    scale = SUPERSAMPLING
    fine = Image.new("L", ((right - left) * scale, (bottom - top) * scale))
    draw = ImageDraw.Draw(fine)
    for polygon, value in ((placement.outline, 1), (placement.hole, 0)):
        if polygon is not None:
            # Pillow's integer coordinates are pixel centres.
            points = (polygon - (left, top)) * scale - 0.5
            draw.polygon([(float(x), float(y)) for x, y in points], fill=value)
    mask = np.asarray(fine)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    box = (
        left + columns[0] / scale,
        top + rows[0] / scale,
        left + (columns[-1] + 1) / scale,
        top + (rows[-1] + 1) / scale,
    )
    blocks = mask.reshape(bottom - top, scale, right - left, scale)
    coverage = blocks.mean(axis=(1, 3), dtype=np.float32)
    return _Stencil(left, top, coverage, tuple(float(v) for v in box))  # type: ignore[arg-type]


def _random_color(
    rng: np.random.RandomState, saturation: tuple[float, float], value: tuple[float, float]
) -> Array:
    """RGB in 0..1 from a uniform hue and the given ranges."""
    hue, s, v = rng.uniform(), rng.uniform(*saturation), rng.uniform(*value)
    ramp = np.abs((hue * 6.0 + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0
    return (v * (1.0 - s + s * np.clip(ramp, 0.0, 1.0))).astype(np.float32)


def _mix(first: Array, second: Array, amount: Array) -> Array:
    """Blend two colours (3,) by ``amount`` (h, w) into (h, w, 3)."""
    return first + (second - first) * amount[..., None]


def _soft_step(wave: Array, sharpness: float) -> Array:
    """A wave in -1..1 to 0..1 with soft edges."""
    return np.clip(0.5 + sharpness * wave, 0.0, 1.0)


def _blur(values: Array, radius: float) -> Array:
    image = Image.fromarray((np.clip(values, 0.0, 1.0) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255.0


def _smooth_noise(rng: np.random.RandomState, height: int, width: int, cell: float) -> Array:
    """Noise in 0..1 that varies over about ``cell`` pixels."""
    size = (max(2, round(width / cell) + 1), max(2, round(height / cell) + 1))
    coarse = rng.randint(0, 256, size=size[::-1]).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32) / 255.0


def _draw_background(rng: np.random.RandomState, height: int, width: int) -> Array:
    """A muted texture (height, width, 3) in 0..1: gradient, clouds, stripes or checks."""
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
    """Colour (h, w, 3) of a shape at its own coordinates: solid, gradient, stripes or dots.

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
        amount = np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=np.float32)
    elif kind == 1:
        amount = np.clip((u + 1) / 2, 0.0, 1.0)
    elif kind == 2:
        amount = _soft_step(np.sin(u * math.pi * repeats), 2.5)
    else:
        dots = np.cos(u * math.pi * repeats) * np.cos(v * math.pi * repeats)
        amount = _soft_step(np.abs(dots) - 0.55, 4.0)
    return _mix(main, other, amount)


def _paint(
    rng: np.random.RandomState, canvas: Array, placement: _Placement, stencil: _Stencil
) -> None:
    """Paint a shape with its shadow onto ``canvas`` in place."""
    radius = min(placement.radii)
    height, width = canvas.shape[:2]
    margin = math.ceil(0.4 * radius) + 2
    rows, columns = stencil.window
    wide = (
        slice(max(rows.start - margin, 0), min(rows.stop + margin, height)),
        slice(max(columns.start - margin, 0), min(columns.stop + margin, width)),
    )
    coverage = np.zeros((wide[0].stop - wide[0].start, wide[1].stop - wide[1].start), np.float32)
    inner = (
        slice(rows.start - wide[0].start, rows.stop - wide[0].start),
        slice(columns.start - wide[1].start, columns.stop - wide[1].start),
    )
    coverage[inner] = stencil.coverage

    offset = 1 + round(0.08 * radius)
    shadow = np.zeros_like(coverage)
    shadow[offset:, offset:] = coverage[:-offset, :-offset]
    canvas[wide] *= 1.0 - rng.uniform(0.2, 0.5) * _blur(shadow, 1 + 0.08 * radius)[..., None]

    behind = canvas[stencil.window].mean(axis=(0, 1))
    u, v = placement.local_grid(wide)
    color = _fill(rng, u, v, radius, behind)
    # Light from the top left of the image, and a rim that darkens towards the edge.
    y = (np.arange(wide[0].start, wide[0].stop, dtype=np.float32) - placement.center[1])[:, None]
    x = (np.arange(wide[1].start, wide[1].stop, dtype=np.float32) - placement.center[0])[None, :]
    light = 1.0 - 0.16 * np.clip((x + y) / (1.4 * max(placement.radii)), -1.0, 1.0)
    rim = 0.55 + 0.45 * np.clip(2.4 * _blur(coverage, 0.6 + 0.06 * radius) - 1.2, 0.0, 1.0)
    color = color * (light * rim)[..., None]
    canvas[wide] += (color - canvas[wide]) * coverage[..., None]
