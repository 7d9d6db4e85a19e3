"""Sheets of findings: what is wrong can be seen."""

import numpy as np
import pytest
from PIL import Image

from sap_detr.data import PixelRange
from sap_detr.data.findings import Example, Findings, Kind
from sap_detr.visualization.findings_sheet import draw_example, findings_sheet
from sap_detr.visualization.palette import class_color

RED = class_color(8)
EMPTY = (228, 228, 228)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (480, 360), (20, 60, 20)).save(path)
    return str(path)


def places(picture, color):
    """First and last column and row of a colour, as x0, y0, x1, y1."""
    rows, columns = np.nonzero((picture == color).all(2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_box_is_drawn_where_it_is(image):
    picture = draw_example(Example("a", "", (image,), ((100, 80, 200, 150),)))
    assert picture.shape == (360, 480, 3)
    assert places(picture, RED) == (100, 80, 299, 229)


@pytest.mark.parametrize(
    "box", [(600, 50, 40, 40), (-90, -50, 120, 100), (100, 300, 50, 1e9), (0, 0, 5000, 5000)]
)
def test_there_is_room_for_boxes_beyond_the_border(image, box):
    picture = draw_example(Example("a", "", (image,), (box,)))
    assert (picture == EMPTY).all(2).any()
    assert (picture == RED).all(2).sum() > 40
    x0, y0, x1, y1 = places(picture, (20, 60, 20))
    assert (x1 - x0) / (y1 - y0) == pytest.approx(480 / 360, rel=0.05)


def test_small_boxes_are_shown_enlarged(image):
    small = draw_example(Example("a", "", (image,), ((50, 50, 1.5, 2),)))
    assert places(small, RED)[2] > 340
    large = draw_example(Example("a", "", (image,), ((50, 50, 60, 40),)))
    assert places(large, RED)[2] < 120


def test_pairs_stand_beside_each_other(image, tmp_path):
    other = str(tmp_path / "b.png")
    Image.new("RGB", (480, 360), (200, 20, 200)).save(other)
    picture = draw_example(Example("a", "", (image, other)))
    assert places(picture, (20, 60, 20))[2] < 240 < places(picture, (200, 20, 200))[0]


def test_sheet_has_some_of_every_kind_and_errors_first(image, tmp_path):
    findings = Findings("train")
    for _ in range(9):
        findings.add(Kind.TINY_BOX, "a", "x", (image,), ((9, 9, 9, 9),))
    findings.add(Kind.TOO_LARGE, "a", "x", (image,))
    findings.add(Kind.MISSING_FILE, "b", "gone", (str(tmp_path / "none.png"),))
    findings.add(Kind.UNUSED_CLASS, what="bird")
    sheet = Image.open(findings_sheet([findings], tmp_path / "new" / "sheet.png"))
    # Five of them, in two columns.
    assert sheet.width == 2 * 480 + 20 + 2 * 24
    assert 3 * 360 < sheet.height < 4 * 360
    first = np.asarray(sheet)[100:400, 24:504]
    assert not (first == RED).all(2).any()


def test_nothing_todraw_example(tmp_path):
    findings = Findings("train")
    findings.add(Kind.MISSING_FILE, "b", "gone", (str(tmp_path / "none.png"),))
    assert findings_sheet([findings], tmp_path / "sheet.png") is None
    assert not (tmp_path / "sheet.png").exists()


def test_images_of_more_than_8_bits(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(path)
    example = Example("image 1", "", (str(path),))
    dark, bright = (draw_example(example, PixelRange("bits", b)) for b in (16, 11))
    assert bright.mean() > dark.mean() + 10
