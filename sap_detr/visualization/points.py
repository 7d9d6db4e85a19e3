"""Draw how SAP-DETR's points move through the decoder and what its queries look at."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from detectron2.structures import Instances
from PIL import Image

from .canvas import Canvas, Floats, View
from .detections import class_name, line_width
from .layout import (
    GAP,
    INK,
    MUTED,
    Picture,
    below,
    beside,
    on_line,
    paragraph,
    save_sheet,
    swatch,
    text_line,
)
from .palette import RGB, class_color, load_font, text_color_on
from .pixels import Pixels, check_image
from .traces import QueryTrace

_EMPTY, _WHITE, _DARK = (238, 238, 238), (255, 255, 255), (20, 20, 20)
_COLORMAP = "inferno"
_LOWEST_COLOR = 0.2  # below it the colour map is black


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

    Raises:
        ValueError: if the image is not an 8-bit RGB image.
    """
    check_image(image)
    canvas = Canvas(image, View((0, 0, 1, 1), (image.shape[1], image.shape[0])))
    width = line_width(canvas.view.size)
    for trace in traces:
        canvas.rectangle(trace.cell, _DARK, width + 1, opacity=0.3)
        canvas.rectangle(trace.cell, _WHITE, width / 2 + 0.5, opacity=0.5)
    for trace, index in reversed(list(zip(traces, classes, strict=True))):
        x0, y0, x1, y1 = canvas.view.to_pixels(trace.cell)
        radius = max(2.0, min(2.2 * width, 0.12 * (x1 - x0), 0.12 * (y1 - y0)))
        _draw_path(canvas, trace, class_color(index), radius)
    return canvas.pixels


def attention_sheet(
    image: Pixels,
    detections: Instances,
    traces: Sequence[QueryTrace],
    out_png: str | os.PathLike[str],
    class_names: Sequence[str | None] | None = None,
    *,
    title: str = "",
    tile_width: int = 220,
) -> Path:
    """Draw a sheet with a row for each detection.

    A row has the detection, its cell with the numbered path of the point, and for each layer the
    cross-attention, averaged over the heads, with the point and the box that the layer was given
    and the centres of its Gaussians; or, where it is deformable, the samples of all heads. Below is
    the last layer of the first detection, head by head.

    Args:
        image: (H, W, 3), RGB.
        detections: N detected objects, with ``pred_classes`` and ``scores``.
        traces: of the N queries that the detections are of, from one model.
        out_png: file to write.
        class_names: by class index.
        title: what stands at the top.
        tile_width: width of one picture in pixels.

    Returns:
        The file.

    Raises:
        ValueError: if there are no detections, or not as many as traces, or the image is not an
            8-bit RGB image.
    """
    check_image(image)
    if not traces or len(traces) != len(detections):
        raise ValueError(
            "a sheet needs at least one detection and a trace for each, got "
            f"{len(detections)} detections and {len(traces)} traces"
        )
    height = round(tile_width * float(np.clip(image.shape[0] / image.shape[1], 0.7, 1.4)))
    size = (tile_width, height)
    overview = View.around((0, 0, 1, 1), image, size)
    num_layers, num_heads = _weights(traces[0]).shape[:2]
    columns = num_layers + 2
    width = columns * (tile_width + GAP) - GAP
    blocks = [_header(title, traces[0], width)]
    regular, bold = load_font(13), load_font(15, bold=True)
    classes, scores = detections.pred_classes.tolist(), detections.scores.tolist()
    for i, (trace, number, score) in enumerate(zip(traces, classes, scores, strict=True)):
        color = class_color(number)
        view = _view_of_detection(image, trace, size)
        path = path_view(image, trace, size)
        name = f"{class_name(class_names, number)} {score:.2f}"
        caption = [swatch(color), text_line(name, bold)]
        tiles = {
            "detection": _detection_tile(image, trace, overview, color),
            f"path of the point, × {path.magnification(overview):.0f}": _path_tile(
                image, trace, path, color
            ),
        }
        for layer in range(num_layers):
            tile = _attention_tile(image, view, trace, layer, slice(None), color)
            tiles[f"layer {layer + 1}"] = tile
        details = f"query {trace.query}"
        blocks.append(_row([*caption, text_line(details, regular, MUTED)], tiles, columns))
        if i == 0:
            details += f", the heads of layer {num_layers}"
            tiles = {
                f"head {head + 1}": _attention_tile(
                    image, view, trace, num_layers - 1, slice(head, head + 1), color
                )
                for head in range(num_heads)
            }
            heads = _row([*caption, text_line(details, regular, MUTED)], tiles, columns)
    sheet = below([*blocks, heads], 2 * GAP)
    return save_sheet(sheet, out_png)


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


def _draw_path(
    canvas: Canvas, trace: QueryTrace, color: RGB, radius: float, numbers: bool = False
) -> None:
    """Draw the path of a point from its start, with dots that grow up to ``radius`` pixels."""
    path = np.concatenate((trace.start[None], trace.points))
    width = max(2.0, radius / 3 + 1)
    canvas.line(path, _DARK, width + 2, opacity=0.6)
    canvas.line(path, color, width)
    canvas.dot(path[0], 0.45 * radius, _WHITE)
    for layer, point in enumerate(trace.points, start=1):
        share = layer / len(trace.points)
        last = layer == len(trace.points)
        size = radius * (0.5 + 0.5 * share) if not numbers else radius * (0.75 + 0.25 * share)
        canvas.dot(point, size, color, rim=_WHITE if last else None)
        if numbers:
            canvas.text(point, str(layer), max(7, round(1.3 * size)), text_color_on(color))


def _detection_tile(image: Pixels, trace: QueryTrace, view: View, color: RGB) -> Pixels:
    canvas = Canvas(view.show(image, _EMPTY), view)
    canvas.rectangle(trace.cell, _WHITE, 2, opacity=0.7)
    _draw_box(canvas, trace.boxes[-1], color, 3)
    canvas.dot(trace.points[-1], view.size[0] / 60, color, rim=_WHITE)
    return canvas.pixels


def _path_tile(image: Pixels, trace: QueryTrace, view: View, color: RGB) -> Pixels:
    """Draw the path with numbered layers, on a pale image that is paler outside the cell."""
    shown = view.show(image, _EMPTY)
    opacity = np.full(shown.shape, 0.2)
    x0, y0, x1, y1 = view.to_pixels(trace.cell).round().clip(0, 2 * max(view.size)).astype(int)
    opacity[y0:y1, x0:x1] = 0.6
    pale = opacity * shown + (1 - opacity) * 255
    canvas = Canvas(pale.round().astype(np.uint8), view)
    canvas.rectangle(trace.cell, _DARK, 1.5, opacity=0.5)
    _draw_box(canvas, trace.boxes[-1], color, 3)
    _draw_path(canvas, trace, color, radius=view.size[0] / 25, numbers=True)
    return canvas.pixels


def path_view(image: Pixels, trace: QueryTrace, size: tuple[int, int]) -> View:
    """Return a view of the cell, or of the point's path with some room where that is much shorter.

    Args:
        image: (H, W, 3).
        trace: of the query.
        size: (width, height) of the picture.
    """
    cell_size = trace.cell[2:] - trace.cell[:2]
    path = np.concatenate((trace.start[None], trace.points))
    low, high = path.min(0), path.max(0)
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
    point, shown = trace.entering_points[layer], view.show(image, _EMPTY)
    heat: Floats = np.zeros(shown.shape[:2])
    if trace.attention is not None:
        heat = view.show(trace.attention[layer, heads].mean(0), 0.0)
    canvas = Canvas(overlay_heat(shown, heat), view)
    _draw_box(canvas, trace.entering_boxes[layer], color, 2)
    if trace.samples is not None:
        _draw_samples(canvas, trace.samples[layer, heads], point)
    if trace.centres is not None:
        for centre in trace.centres[layer, heads]:
            canvas.line(np.stack((point, centre)), _WHITE, 1.5, opacity=0.5)
        for centre in trace.centres[layer, heads]:
            canvas.dot(centre, view.size[0] / 75, _WHITE)
    canvas.dot(point, view.size[0] / 55, color, rim=_WHITE)
    return canvas.pixels


def _draw_samples(canvas: Canvas, samples: Floats, point: Floats) -> None:
    """Draw samples (M, S, 3) of some heads: brighter and larger where the weight is higher."""
    flat = samples.reshape(-1, 3)
    flat = flat[flat[:, 2].argsort()]
    shares = flat[:, 2] / flat[-1, 2]
    colors = matplotlib.colormaps[_COLORMAP](_LOWEST_COLOR + 0.8 * shares, bytes=True)
    for where, share, color in zip(flat[:, :2], shares.tolist(), colors.tolist(), strict=True):
        canvas.line(np.stack((point, where)), _WHITE, 1, opacity=0.25 * share)
        canvas.dot(where, canvas.view.size[0] / 90 * (0.4 + 0.6 * share), tuple(color[:3]))


def _weights(trace: QueryTrace) -> Floats:
    """Return the attention, or the samples, (L, M, ...)."""
    weights = trace.attention if trace.samples is None else trace.samples
    assert weights is not None, "a trace has attention or samples"
    return weights


def _draw_box(canvas: Canvas, box: Floats, color: RGB, width: float) -> None:
    canvas.rectangle(box, _DARK, width + 2, opacity=0.6)
    canvas.rectangle(box, color, width)


def _row(caption: Sequence[Picture], tiles: Mapping[str, Pixels], columns: int) -> Picture:
    """Return a caption and below it pictures by heading; after ``columns`` a new line begins."""
    font = load_font(13)
    parts = [
        below([text_line(heading, font, MUTED), Image.fromarray(tile)])
        for heading, tile in tiles.items()
    ]
    lines = [beside(parts[i : i + columns], GAP) for i in range(0, len(parts), columns)]
    return below([beside(caption, GAP), *lines])


def _header(title: str, trace: QueryTrace, width: int) -> Picture:
    """Return the title, what is to be seen, and the colours of :func:`overlay_heat`."""
    font = load_font(13)
    num_layers, num_heads = _weights(trace).shape[:2]
    text = (
        "Path: the point starts at the white dot, in the "
        f"{'corner of its cell' if trace.samples is None else 'middle of the cell of its token'}; "
        f"the numbers are those of the layers, and it ends at {num_layers}. Layers: "
    )
    if trace.samples is None:
        text += f"the cross-attention, mean of {num_heads} heads, "
    else:
        text += f"where {num_heads} heads sample the memory on all levels, "
    text += "with the point and the box that the layer is given"
    if trace.centres is not None:
        text += ", and white dots where the heads' Gaussians are centred"
    text += "."
    strength = np.tile(np.linspace(0, 1, 140), (12, 1))
    bar = overlay_heat(np.full((12, 140, 3), 128, np.uint8), strength)
    colors = [
        text_line("attention 0", font, MUTED),
        on_line(Image.fromarray(bar)),
        text_line("the highest in each picture", font, MUTED),
    ]
    heading = [paragraph(title, load_font(15, bold=True), INK, width)] if title.strip() else []
    return below([*heading, paragraph(text, font, MUTED, width), beside(colors, GAP)])
