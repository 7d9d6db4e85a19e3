"""Points, boxes and attention are drawn where they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from sap_detr.visualization import (
    QueryTrace,
    attention_sheet,
    class_color,
    draw_points,
    layout,
)
from sap_detr.visualization.canvas import View
from sap_detr.visualization.points import overlay_heat, path_view

GREY = 100


def image(height=90, width=120):
    return np.full((height, width, 3), GREY, np.uint8)


def make_trace(num_layers=3, num_heads=4, path=((0.55, 0.5), (0.55, 0.6), (0.7, 0.7))):
    """In the middle cell of a grid of 2 x 4."""
    box = np.tile(np.array([0.3, 0.2, 0.9, 0.8], np.float32), (num_layers, 1))
    path = np.array(path[-num_layers:], np.float32)
    return QueryTrace(
        query=6,
        cell=np.array([0.5, 0.5, 0.75, 1], np.float32),
        start=np.array([0.5, 0.5], np.float32),
        points=path,
        boxes=box,
        entering_points=path,
        entering_boxes=box,
        centres=np.full((num_layers, num_heads, 2), 0.6, np.float32),
        attention=np.full((num_layers, num_heads, 3, 4), 1 / 12, np.float32),
    )


def make_boxes(count=1):
    box = torch.tensor([[36.0, 18, 108, 72]] * count)
    classes, scores = torch.arange(count), torch.full((count,), 0.9)
    return Instances((90, 120), pred_boxes=Boxes(box), pred_classes=classes, scores=scores)


def pixels_of(picture, color):
    ys, xs = np.nonzero((np.asarray(picture) == np.array(color)).all(-1))
    return xs, ys


@pytest.mark.parametrize("size", [(200, 100), (90, 160)])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.5, 0.1, 0.9, 0.6), (0.8, 0.8, 1, 1)])
def test_pixels_and_coordinates_of_a_view_agree(box, size):
    spot = image()
    spot[60:66, 96:104] = 255  # around (100, 63)
    view = View.around(box, spot, size)
    low, high = view.to_pixels(np.array(box)).reshape(2, 2)
    assert (low >= -1e-6).all()
    assert (high <= np.array(size) + 1e-6).all()
    scale = (np.array(view.size) / (np.array(view.region[2:]) - view.region[:2])) / (120, 90)
    assert scale[0] == pytest.approx(scale[1])  # no distortion
    x, y = view.to_pixels(np.array([100 / 120, 63 / 90]))
    inside = 8 < x < size[0] - 8 and 8 < y < size[1] - 8
    ys, xs = np.nonzero(view.show(spot, (0, 0, 0))[..., 0] > 180)
    assert inside == (len(xs) > 0)
    if inside:
        assert xs.mean() + 0.5 == pytest.approx(x, abs=1)
        assert ys.mean() + 0.5 == pytest.approx(y, abs=1)


def test_a_view_shows_maps_of_any_size_over_the_whole_image():
    view = View((0.5, 0, 1, 1), (40, 40))
    heat = np.zeros((2, 4), np.float32)
    heat[1, 3] = 1  # the centre of that cell is at (0.875, 0.75)
    shown = view.show(heat, 0.0)
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert shown.shape == (40, 40)
    assert x >= 30
    assert y >= 30
    assert shown[:15, :15].max() < 0.1


def test_a_view_is_kept_inside_of_the_image_unless_it_must_be_centred():
    assert View.around((0.9, 0.9, 1, 1), image(), (40, 30)).region == pytest.approx(
        (0.9, 0.9, 1, 1)
    )
    beside = View.around((0.9, 0, 1, 0.5), image(), (40, 30))
    assert beside.region == pytest.approx((0.5, 0, 1, 0.5))
    centred = View.around((0.9, 0, 1, 0.5), image(), (40, 30), centred=True)
    assert centred.region == pytest.approx((0.7, 0, 1.2, 0.5))
    empty = centred.show(image(), (1, 2, 3))
    assert (empty[:, -10:] == (1, 2, 3)).all()
    assert (empty[:, :20] == GREY).all()


def test_points_are_drawn_at_their_places_and_only_in_the_cell():
    before = image(480, 640)
    drawn = draw_points(before, [make_trace()], [1])
    assert (before == GREY).all()
    assert drawn.shape == before.shape
    assert tuple(drawn[336, 448]) == class_color(1)
    assert tuple(drawn[240, 320]) == (255, 255, 255)
    changed_y, changed_x = np.nonzero((drawn != before).any(-1))
    assert 305 < changed_x.min() <= 320
    assert 480 <= changed_x.max() < 495
    assert 225 < changed_y.min() <= 240
    assert changed_y.max() == 479


def test_the_first_query_is_on_top():
    drawn = draw_points(image(480, 640), [make_trace(), make_trace()], [2, 1])
    assert tuple(drawn[336, 448]) == class_color(2)


def test_dots_grow_and_the_last_has_a_rim():
    trace = make_trace(path=((0.55, 0.6), (0.65, 0.6), (0.7, 0.9)))
    drawn = draw_points(image(960, 1280), [trace], [0])
    radii = []
    for x, y in trace.points:
        column = drawn[: round(y * 960) + 1, round(x * 1280)][::-1]
        radii.append(int((column == class_color(0)).all(-1).argmin()))
    assert radii[0] < radii[1] < radii[2]
    last = [drawn[round(0.9 * 960) - radii[2] - i, round(0.7 * 1280)].min() for i in range(4)]
    assert max(last) > 230
    first = [drawn[round(0.6 * 960) - radii[0] - i, round(0.55 * 1280)].min() for i in range(4)]
    assert max(first) < 150


def test_points_that_are_not_finite_are_left_out():
    trace = make_trace()
    far = trace.points.copy()
    far[0], far[1] = np.nan, 1e30
    drawn = draw_points(image(480, 640), [replace(trace, points=far)], [1])
    assert tuple(drawn[336, 448]) == class_color(1)


def test_heat_is_brightest_at_the_maximum_and_absent_at_zero():
    heat = np.zeros((90, 120), np.float32)
    heat[40, 50], heat[10, 10], heat[20, 20] = 1, 0.5, -1
    blended = overlay_heat(image(), heat).astype(int)
    brightness = blended.sum(-1)
    assert brightness[40, 50] > brightness[10, 10]
    assert np.ptp(blended[40, 50]) > 50
    assert (np.ptp(blended[heat <= 0], axis=-1) == 0).all()
    assert (overlay_heat(image(), 7 * heat) == blended).all()
    assert np.isfinite(overlay_heat(image(), 0 * heat)).all()


@pytest.mark.parametrize("num_layers, num_heads, lines", [(3, 4, 1), (3, 8, 2), (1, 4, 2)])
def test_a_sheet_has_a_row_per_detection_and_one_for_the_heads(
    tmp_path, num_layers, num_heads, lines
):
    traces = [make_trace(num_layers, num_heads)] * 2
    out = tmp_path / "new" / "sheet.png"
    args = (image(), make_boxes(2), traces, out, ["cat", "dog"])
    sheet = Image.open(attention_sheet(*args, title="a", tile_width=160))
    columns = num_layers + 2
    assert sheet.width == 2 * layout.MARGIN + columns * (160 + layout.GAP) - layout.GAP
    tile = 120 + layout.LINE
    rows = 2 * tile + lines * tile + 3 * (layout.LINE + 2 * layout.GAP)
    header = sheet.height - 2 * layout.MARGIN - rows
    assert header % layout.LINE == 0
    assert 3 * layout.LINE <= header <= 7 * layout.LINE


def test_a_sheet_shows_the_attention_of_each_layer_and_head(tmp_path):
    trace = make_trace()
    attention = np.full((3, 4, 3, 4), 1e-9, np.float32)
    attention[:, :, 1, 1] = 1
    attention[2, :, 1, 1], attention[2, :2, 0, 2], attention[2, 2:, 2, 2] = 0, 1, 1
    args = (image(), make_boxes(), [replace(trace, attention=attention, centres=None)])
    sheet = np.asarray(Image.open(attention_sheet(*args, tmp_path / "a.png", tile_width=160)))
    seen = []
    tops = sheet.shape[0] - layout.MARGIN - 120
    heads_top, layers_top = tops, tops - 2 * layout.LINE - 2 * layout.GAP - 120
    for top, column in [(layers_top, 2), (layers_top, 3), (layers_top, 4), (heads_top, 0)]:
        left = layout.MARGIN + column * (160 + layout.GAP)
        tile = sheet[top : top + 120, left : left + 160].astype(int)
        heat = np.clip(tile[..., 0] - tile[..., 2] - 60, 0, None)
        heat[np.abs(tile - class_color(0)).max(-1) < 90] = 0
        seen.append((heat * np.arange(120)[:, None]).sum() / heat.sum())
    assert seen[0] == pytest.approx(seen[1], abs=3)
    assert seen[3] < seen[2] - 10  # head 1 looks up, the layer's mean up and down


def test_short_paths_are_magnified_and_long_ones_shown_with_their_cell():
    long_path = path_view(image(), make_trace(), (160, 120))
    assert (np.array(long_path.region[:2]) < 0.5).all()
    assert long_path.region[2] > 0.75
    assert long_path.region[3] > 1
    short = make_trace(path=((0.5, 0.5), (0.51, 0.505), (0.505, 0.51)))
    view = path_view(image(), short, (160, 120))
    overview = View((0, 0, 1, 1), (160, 120))
    assert view.magnification(overview) > 20
    pixels = view.to_pixels(short.points)
    assert (pixels > 0).all()
    assert (pixels < (160, 120)).all()


@pytest.mark.parametrize("num_boxes, num_traces", [(0, 0), (1, 2)])
def test_a_sheet_needs_detections_and_their_traces(tmp_path, num_boxes, num_traces):
    with pytest.raises(ValueError, match=f"{num_boxes} detections and {num_traces} traces"):
        attention_sheet(
            image(), make_boxes(num_boxes), [make_trace()] * num_traces, tmp_path / "a.png"
        )


def test_only_8_bit_rgb_images_are_taken(tmp_path):
    for wrong in (image() / 255, image()[..., 0]):
        with pytest.raises(ValueError, match="uint8"):
            draw_points(wrong, [make_trace()], [1])
        with pytest.raises(ValueError, match="uint8"):
            attention_sheet(wrong, make_boxes(), [make_trace()], tmp_path / "a.png")
