"""Draw how SAP-DETR's points move through the decoder and what its queries look at."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .attention import QueryTrace
from .detections import BoxSet, Pixels, class_name, line_width
from .palette import RGB, class_color, load_font, text_color_on

Region = tuple[float, float, float, float]
Floats = NDArray[np.floating]

_PAPER, _INK, _MUTED, _EMPTY = (255, 255, 255), (34, 34, 34), (110, 110, 110), (238, 238, 238)
_WHITE, _DARK = (255, 255, 255), (20, 20, 20)
_MARGIN, _GAP, _LINE = 24, 8, 24
_COLORMAP = "inferno"
_LOWEST_COLOR = 0.2  # below it the colour map is black
_SHIFT = 4  # bits of a pixel's fraction in OpenCV's coordinates


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
        """How much larger than in another view of the same image things are."""
        shown, others = (v.size[0] / (v.region[2] - v.region[0]) for v in (self, other))
        return shown / others

    def to_pixels(self, xy: Floats) -> NDArray[np.float64]:
        """Map (..., 2) fractions of the image, or (..., 4) boxes, to pixels of the picture."""
        repeat = xy.shape[-1] // 2
        low, high = np.array(self.region[:2] * repeat), np.array(self.region[2:] * repeat)
        pixels: NDArray[np.float64] = (xy - low) / (high - low) * np.array(self.size * repeat)
        return pixels

    def show(self, array: NDArray[Any], empty: float | RGB) -> NDArray[Any]:
        """Resamples an array that covers the whole image, smoothly.

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


def draw_points(image: Pixels, traces: Sequence[QueryTrace], classes: Sequence[int]) -> Pixels:
    """Draw the cells of queries and the paths of their points through the layers.

    A point starts at the small white dot in the corner of its cell. Each layer has a dot, and later
    ones are larger; the last, with the white rim, is the final point.

    Args:
        image: (H, W, 3), RGB; it is not changed.
        traces: of the queries to draw; the first are on top.
        classes: class indices that give the colours, one for each trace.

    Returns:
        (H, W, 3), RGB.
    """
    canvas = _Canvas(image.copy(), View((0, 0, 1, 1), (image.shape[1], image.shape[0])))
    width = line_width(canvas.view.size)
    for trace in traces:
        canvas.rectangle(trace.cell, _DARK, width, opacity=0.3)
        canvas.rectangle(trace.cell, _WHITE, width / 2, opacity=0.5)
    for trace, index in reversed(list(zip(traces, classes, strict=True))):
        x0, y0, x1, y1 = canvas.view.to_pixels(trace.cell)
        radius = max(2.0, min(2.2 * width, 0.12 * (x1 - x0), 0.12 * (y1 - y0)))
        _draw_way(canvas, trace, class_color(index), radius)
    return canvas.pixels


def attention_sheet(
    image: Pixels,
    detections: BoxSet,
    traces: Sequence[QueryTrace],
    out_png: str | os.PathLike[str],
    class_names: Sequence[str | None] | None = None,
    *,
    title: str = "",
    tile_width: int = 220,
) -> Path:
    """Draw a sheet with a row for each detection.

    A row has the detection, its cell with the numbered way of the point, and for each layer the
    cross-attention, averaged over the heads, with the point and the box that the layer was given
    and the centres of its Gaussians. Below is the last layer of the first detection, head by head.

    Args:
        image: (H, W, 3), RGB.
        detections: N boxes.
        traces: of the N queries that the detections are of, from one model.
        out_png: file to write.
        class_names: by class index.
        title: what stands at the top.
        tile_width: width of one picture in pixels.

    Returns:
        The file.

    Raises:
        ValueError: if there are no detections, or not as many as traces.
    """
    if not traces or len(traces) != len(detections):
        raise ValueError(
            "a sheet needs at least one detection and a trace for each, got "
            f"{len(detections)} detections and {len(traces)} traces"
        )
    height = round(tile_width * float(np.clip(image.shape[0] / image.shape[1], 0.7, 1.4)))
    size = (tile_width, height)
    overview = View.around((0, 0, 1, 1), image, size)
    num_layers, num_heads = traces[0].attention.shape[:2]
    every_head = slice(None)
    rows = []
    for i, trace in enumerate(traces):
        color = class_color(int(detections.classes[i]))
        view = _view_of_detection(image, trace, size)
        score = "" if detections.scores is None else f" {detections.scores[i]:.2f}"
        row = _Row(
            caption=class_name(class_names, int(detections.classes[i])) + score,
            details=f"query {trace.query}",
            color=color,
        )
        row.add("detection", _detection_tile(image, trace, overview, color))
        way = _view_of_way(image, trace, size)
        row.add(
            f"way of the point, × {way.magnification(overview):.0f}",
            _way_tile(image, trace, way, color),
        )
        for layer in range(num_layers):
            tile = _attention_tile(image, view, trace, layer, every_head, color)
            row.add(f"layer {layer + 1}", tile)
        rows.append(row)
    best = rows[0]
    heads = _Row(best.caption, f"{best.details}, the heads of layer {num_layers}", best.color)
    view = _view_of_detection(image, traces[0], size)
    for head in range(num_heads):
        only = slice(head, head + 1)
        tile = _attention_tile(image, view, traces[0], num_layers - 1, only, best.color)
        heads.add(f"head {head + 1}", tile)
    rows.append(heads)
    legend = _legend(num_layers, num_heads, traces[0].centres is not None)
    sheet = _lay_out(rows, num_layers + 2, title, legend)
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def overlay_heat(image: Pixels, heat: Floats) -> Pixels:
    """Lay a heat map over the image in grey.

    Args:
        image: (H, W, 3), RGB.
        heat: (H, W), of which the largest value gets the brightest colour, and 0 or less none.

    Returns:
        (H, W, 3), RGB.
    """
    strength = np.clip(heat / max(float(np.max(heat)), 1e-12), 0, 1)
    colors = 255 * matplotlib.colormaps[_COLORMAP](_LOWEST_COLOR + (1 - _LOWEST_COLOR) * strength)
    grey = 0.7 * image.mean(-1, keepdims=True) + 40
    opacity = (0.9 * strength**0.6)[..., None]
    blended: Pixels = (opacity * colors[..., :3] + (1 - opacity) * grey).round().astype(np.uint8)
    return blended


class _Canvas:
    """Draws smooth lines and circles at fractions of an image into a view of it.

    Args:
        pixels: (H, W, 3), RGB, of the view; it is drawn into.
        view: what part of the image the pixels show.
    """

    def __init__(self, pixels: Pixels, view: View) -> None:
        self.pixels = pixels
        self.view = view

    @classmethod
    def of(cls, image: Pixels, view: View) -> _Canvas:
        """Return a canvas that shows the image."""
        return cls(view.show(image, _EMPTY), view)

    def line(self, xy: Floats, color: RGB, width: float, opacity: float = 1.0) -> None:
        """Draw a line through points (n, 2)."""
        self._polygon(xy, color, width, opacity, closed=False)

    def rectangle(self, box: Floats, color: RGB, width: float, opacity: float = 1.0) -> None:
        """Draw the outline of a box, XYXY."""
        x0, y0, x1, y1 = box
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        self._polygon(corners, color, width, opacity, closed=True)

    def dot(self, xy: Floats, radius: float, color: RGB, rim: RGB | None = None) -> None:
        """Draw a disc at a point (2,), with a dark edge, and inside of that a rim if one is given.

        The radius in pixels is that of the disc.
        """
        edge, rim_width = max(1.0, radius / 10), max(1.5, radius / 5) if rim else 0.0
        self._disc(xy, radius + rim_width + edge, _DARK)
        if rim:
            self._disc(xy, radius + rim_width, rim)
        self._disc(xy, radius, color)

    def text(self, xy: Floats, text: str, size: int, color: RGB) -> None:
        """Write bold text around a point (2,)."""
        picture = Image.fromarray(self.pixels)
        x, y = self.view.to_pixels(xy)
        font = load_font(size, bold=True)
        ImageDraw.Draw(picture).text((x, y), text, font=font, fill=color, anchor="mm")
        self.pixels = np.array(picture)

    def _polygon(self, xy: Floats, color: RGB, width: float, opacity: float, closed: bool) -> None:
        if not np.isfinite(xy).all():
            return
        points = self._to_fixed_point(xy)
        # Only what the line can touch is copied and mixed.
        reach = math.ceil(width) + 2
        low = np.clip(points.min(0) // 2**_SHIFT - reach, 0, self.view.size)
        high = np.clip(points.max(0) // 2**_SHIFT + reach + 1, low, self.view.size)
        patch = self.pixels[low[1] : high[1], low[0] : high[0]]
        if patch.size:
            layer = patch.copy()
            points = (points - low * 2**_SHIFT)[:, None].astype(np.int32)
            thickness = max(1, round(width))
            cv2.polylines(layer, [points], closed, color, thickness, cv2.LINE_AA, _SHIFT)
            patch[:] = _mix(layer, patch, opacity)

    def _disc(self, xy: Floats, radius: float, color: RGB) -> None:
        if np.isfinite(xy).all():
            x, y = self._to_fixed_point(xy).tolist()
            fixed_radius = round(radius * 2**_SHIFT)
            cv2.circle(self.pixels, (x, y), fixed_radius, color, -1, cv2.LINE_AA, _SHIFT)

    def _to_fixed_point(self, xy: Floats) -> NDArray[np.int32]:
        # OpenCV's pixels have their centres at whole numbers; clipped against overflow.
        pixels = np.clip(self.view.to_pixels(xy) - 0.5, -10_000, 30_000)
        fixed: NDArray[np.int32] = (pixels * 2**_SHIFT).round().astype(np.int32)
        return fixed


def _mix(pixels: Pixels, others: Pixels, opacity: float) -> Pixels:
    return np.asarray(cv2.addWeighted(pixels, opacity, others, 1 - opacity, 0), np.uint8)


def _draw_way(
    canvas: _Canvas, trace: QueryTrace, color: RGB, radius: float, numbers: bool = False
) -> None:
    """Draw the path of a point from its start, with dots that grow up to ``radius`` pixels."""
    way = np.concatenate((trace.start[None], trace.points))
    width = max(1.0, radius / 3)
    canvas.line(way, _DARK, width + 2, opacity=0.6)
    canvas.line(way, color, width)
    canvas.dot(way[0], 0.45 * radius, _WHITE)
    for layer, point in enumerate(trace.points, start=1):
        share = layer / len(trace.points)
        last = layer == len(trace.points)
        size = radius * (0.5 + 0.5 * share) if not numbers else radius * (0.75 + 0.25 * share)
        canvas.dot(point, size, color, rim=_WHITE if last else None)
        if numbers:
            canvas.text(point, str(layer), max(7, round(1.3 * size)), text_color_on(color))


def _detection_tile(image: Pixels, trace: QueryTrace, view: View, color: RGB) -> Pixels:
    canvas = _Canvas.of(image, view)
    canvas.rectangle(trace.cell, _WHITE, 1, opacity=0.7)
    _draw_box(canvas, trace.boxes[-1], color, 2)
    canvas.dot(trace.points[-1], view.size[0] / 60, color, rim=_WHITE)
    return canvas.pixels


def _way_tile(image: Pixels, trace: QueryTrace, view: View, color: RGB) -> Pixels:
    """Draw the path with numbered layers, on a pale image that is paler outside the cell."""
    canvas = _Canvas.of(image, view)
    white = np.full_like(canvas.pixels, 255)
    pale = _mix(canvas.pixels, white, 0.6)
    canvas.pixels = _mix(canvas.pixels, white, 0.2)
    x0, y0, x1, y1 = view.to_pixels(trace.cell).round().clip(0, 2 * max(view.size)).astype(int)
    canvas.pixels[y0:y1, x0:x1] = pale[y0:y1, x0:x1]
    canvas.rectangle(trace.cell, _DARK, 1, opacity=0.5)
    _draw_box(canvas, trace.boxes[-1], color, 2)
    _draw_way(canvas, trace, color, radius=view.size[0] / 25, numbers=True)
    return canvas.pixels


def _view_of_way(image: Pixels, trace: QueryTrace, size: tuple[int, int]) -> View:
    """Return a view of the cell, or of the path with some room where that is much shorter."""
    cell_size = trace.cell[2:] - trace.cell[:2]
    way = np.concatenate((trace.start[None], trace.points))
    low, high = way.min(0), way.max(0)
    if ((high - low) > cell_size / 4).any():
        low, high = trace.cell[:2], trace.cell[2:]
    margin = np.maximum(0.25 * (high - low).max(), 0.002 * cell_size)
    return View.around(np.concatenate((low - margin, high + margin)), image, size, centred=True)


def _view_of_detection(image: Pixels, trace: QueryTrace, size: tuple[int, int]) -> View:
    """Return a view of box and cell with as much around; at least a third of the image."""
    box = np.nan_to_num(trace.boxes[-1]).clip(0, 1)
    low, high = np.minimum(box, trace.cell)[:2], np.maximum(box, trace.cell)[2:]
    half = np.maximum(0.9 * (high - low), 1 / 6)
    middle = (low + high) / 2
    return View.around(np.concatenate((middle - half, middle + half)).clip(0, 1), image, size)


def _attention_tile(
    image: Pixels, view: View, trace: QueryTrace, layer: int, heads: slice, color: RGB
) -> Pixels:
    """Draw the mean attention of some heads in a layer, and what the layer was given."""
    canvas = _Canvas.of(image, view)
    heat = view.show(trace.attention[layer, heads].mean(0), 0.0)
    canvas.pixels = overlay_heat(canvas.pixels, heat)
    _draw_box(canvas, trace.entering_boxes[layer], color, 1)
    point = trace.entering_points[layer]
    if trace.centres is not None:
        for centre in trace.centres[layer, heads]:
            canvas.line(np.stack((point, centre)), _WHITE, 1, opacity=0.5)
        for centre in trace.centres[layer, heads]:
            canvas.dot(centre, view.size[0] / 75, _WHITE)
    canvas.dot(point, view.size[0] / 55, color, rim=_WHITE)
    return canvas.pixels


def _draw_box(canvas: _Canvas, box: Floats, color: RGB, width: float) -> None:
    canvas.rectangle(box, _DARK, width + 2, opacity=0.5)
    canvas.rectangle(box, color, width)


@dataclass(frozen=True)
class _Row:
    """Pictures of one size with their headings, under a caption."""

    caption: str
    details: str
    color: RGB
    headings: list[str] = field(default_factory=list)
    tiles: list[Pixels] = field(default_factory=list)

    def add(self, heading: str, tile: Pixels) -> None:
        self.headings.append(heading)
        self.tiles.append(tile)


def _legend(num_layers: int, num_heads: int, has_gaussian: bool) -> str:
    text = (
        "Way: the point starts at the white dot, in the corner of its cell; the numbers are those "
        f"of the layers, and it ends at {num_layers}. Layers: the cross-attention, mean of "
        f"{num_heads} heads, with the point and the box that the layer is given"
    )
    return text + (
        ", and white dots where the heads' Gaussians are centred." if has_gaussian else "."
    )


def _lay_out(rows: Sequence[_Row], columns: int, title: str, legend: str) -> Image.Image:
    """Put rows below each other; those with more than ``columns`` pictures are broken."""
    tile_height, tile_width = rows[0].tiles[0].shape[:2]
    width = columns * (tile_width + _GAP) - _GAP
    regular, bold = load_font(13), load_font(15, bold=True)
    header = [(line, bold, _INK) for line in _wrap(title, bold, width)]
    header += [(line, regular, _MUTED) for line in _wrap(legend, regular, width)]
    pictures = [math.ceil(len(row.tiles) / columns) * (_LINE + tile_height) for row in rows]
    height = _LINE * (len(header) + 1) + sum(_GAP + _LINE + pixels + _GAP for pixels in pictures)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN
    for line, font, color in header:
        draw.text((_MARGIN, y), line, font=font, fill=color)
        y += _LINE
    _draw_color_bar(sheet, _MARGIN, y, regular)
    y += _LINE + _GAP
    for row, pixels in zip(rows, pictures, strict=True):
        draw.rectangle((_MARGIN, y + 3, _MARGIN + 12, y + 15), fill=row.color)
        draw.text((_MARGIN + 20, y), row.caption, font=bold, fill=_INK)
        x = _MARGIN + 30 + round(bold.getlength(row.caption))
        draw.text((x, y + 2), row.details, font=regular, fill=_MUTED)
        y += _LINE
        for i, (heading, tile) in enumerate(zip(row.headings, row.tiles, strict=True)):
            x = _MARGIN + i % columns * (tile_width + _GAP)
            top = y + i // columns * (_LINE + tile_height)
            draw.text((x, top + 4), heading, font=regular, fill=_MUTED)
            sheet.paste(Image.fromarray(tile), (x, top + _LINE))
        y += pixels + 2 * _GAP
    return sheet


def _draw_color_bar(sheet: Image.Image, x: int, y: int, font: ImageFont.FreeTypeFont) -> None:
    """Draw the colours of :func:`overlay_heat`."""
    draw = ImageDraw.Draw(sheet)
    draw.text((x, y), "attention 0", font=font, fill=_MUTED)
    x += round(font.getlength("attention 0")) + 8
    strength = np.tile(np.linspace(0, 1, 140), (12, 1))
    bar = overlay_heat(np.full((12, 140, 3), 128, np.uint8), strength)
    sheet.paste(Image.fromarray(bar), (x, y + 2))
    draw.text((x + 148, y), "the highest in each picture", font=font, fill=_MUTED)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines of at most this width, but for single words that are longer."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
