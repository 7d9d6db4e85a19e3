"""What is drawn lies where it should, in the colour that it should have."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from sap_detr.visualization import class_color, class_name, draw_detections
from sap_detr.visualization.detections import box_arrays
from sap_detr.visualization.palette import load_font, shorten, text_color_on

GREY = 100


def blank(height=120, width=160):
    return np.full((height, width, 3), GREY, np.uint8)


def box_set(boxes, classes=None, scores=None):
    prefix = "gt" if scores is None else "pred"
    found = Instances((120, 160))
    found.set(f"{prefix}_boxes", Boxes(torch.tensor(boxes, dtype=torch.float32)))
    found.set(f"{prefix}_classes", torch.tensor(classes or range(len(boxes))))
    if scores is not None:
        found.scores = torch.tensor(scores)
    return found


def is_color(image, color):
    return (image == np.array(color)).all(-1)


def test_the_outline_has_the_colour_of_the_class_and_lies_on_the_box():
    drawn = draw_detections(blank(), box_set([[40, 50, 90, 100]], [3]), labels="none")
    ys, xs = np.nonzero(is_color(drawn, class_color(3)))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (40, 50, 90, 100)
    assert is_color(drawn[50, 40:90], class_color(3)).all()
    assert is_color(drawn[50:100, 89], class_color(3)).all()
    assert (drawn[60:90, 50:80] == GREY).all()
    assert (drawn[:45] == GREY).all()


def test_the_image_that_is_given_is_left_alone():
    image = blank()
    drawn = draw_detections(image, box_set([[10, 10, 50, 50]]))
    assert (image == GREY).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8


def test_threshold():
    found = box_set([[5, 5, 30, 30], [50, 50, 80, 80], [90, 5, 120, 30]], scores=[0.6, 0.9, 0.4])

    def classes_drawn(**kwargs):
        drawn = draw_detections(blank(), found, labels="none", **kwargs)
        return [c for c in range(3) if is_color(drawn, class_color(c)).any()]

    assert classes_drawn() == [0, 1, 2]
    assert classes_drawn(score_threshold=0.5) == [0, 1]
    assert classes_drawn(score_threshold=0.95) == []


def test_the_better_of_two_boxes_lies_on_top():
    same = [[20, 20, 60, 60]] * 2
    for scores, top in (([0.9, 0.3], 0), ([0.3, 0.9], 1)):
        drawn = draw_detections(blank(), box_set(same, scores=scores), labels="none")
        assert tuple(drawn[20, 40]) == class_color(top)


@pytest.mark.parametrize(
    "box", [[0, 0, 40, 40], [130, 80, 160, 120], [-50, -50, 500, 500], [150, 0, 200, 9]]
)
@pytest.mark.parametrize("name", ["cat", "a name that is far too long for an image this narrow"])
def test_labels_stay_inside(box, name):
    # The plate can only be complete, with a plain border around the letters, if nothing is cut off.
    drawn = draw_detections(blank(), box_set([box], [0], scores=[0.87]), [name])
    without = draw_detections(blank(), box_set([box], [0], scores=[0.87]), labels="none")
    ys, xs = np.nonzero((drawn != without).any(-1))
    plate = drawn[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    ink = text_color_on(class_color(0))
    assert is_color(plate, ink).sum() > 20
    letters = np.abs(plate.astype(int) - np.array(class_color(0))).sum(-1) > 0
    ys_ink, xs_ink = np.nonzero(is_color(drawn, ink))
    assert letters.any()
    assert ys_ink.min() >= 1
    assert xs_ink.min() >= 1
    assert ys_ink.max() <= 118
    assert xs_ink.max() <= 158


def test_names_that_do_not_fit_are_shortened():
    font = load_font(11, bold=True)
    long = "a name that is far too long for an image this narrow"
    text = shorten(long, font, 150)
    assert text.startswith("a name that")
    assert text.endswith("…")
    assert font.getlength(text) <= 150
    assert shorten("cat 0.87", font, 150) == "cat 0.87"
    # In a picture, the end of the name makes no difference.
    box = box_set([[20, 40, 60, 80]], [0])
    drawn, other = (draw_detections(blank(), box, [name]) for name in (long, long + " as it is"))
    assert (drawn == other).all()
    assert (drawn != draw_detections(blank(), box, ["cat"])).any()


def test_labels_of_equal_boxes_do_not_cover_each_other():
    boxes = box_set([[40, 40, 120, 100]] * 3, scores=[0.9, 0.8, 0.7])
    drawn = draw_detections(blank(), boxes, ["a", "b", "c"])
    one = draw_detections(blank(), box_set([[40, 40, 120, 100]], scores=[0.9]), ["a"])
    alone = draw_detections(blank(), box_set([[40, 40, 120, 100]], scores=[0.9]), labels="none")
    plate_area = (one != alone).any(-1).sum()
    for index in (1, 2):  # of these outlines nothing is seen
        assert is_color(drawn, class_color(index)).sum() > 0.4 * plate_area


def test_boxes_that_cannot_be_seen_are_left_out():
    nan, inf = float("nan"), float("inf")
    boxes = [[nan, 0, 10, 10], [0, 0, inf, 10], [200, 10, 300, 20], [-9, -9, -1, -1], [9, 9, 5, 5]]
    assert (draw_detections(blank(), box_set(boxes)) == GREY).all()
    assert (draw_detections(blank(), box_set([])) == GREY).all()


def test_tiny_images_and_boxes_can_be_drawn():
    for size in ((1, 1), (3, 50), (50, 3)):
        image = blank(*size)
        assert draw_detections(image, box_set([[0, 0, 2, 2]]), ["thing"]).shape == image.shape


def test_small_images_are_enlarged_with_their_boxes():
    found = box_set([[20, 30, 60, 90]], [2])
    drawn = draw_detections(blank(), found, labels="none", min_long_side=480)
    assert drawn.shape == (360, 480, 3)
    ys, xs = np.nonzero(is_color(drawn, class_color(2)))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (60, 90, 180, 270)
    assert draw_detections(blank(), found, min_long_side=100).shape == (120, 160, 3)


def test_detections_and_truth_are_read_from_instances():
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    found = Instances((10, 10), pred_boxes=Boxes(boxes), pred_classes=torch.tensor([4, 2]))
    assert np.isnan(box_arrays(found)[2]).all()
    found.scores = torch.tensor([0.25, 0.5])
    result = [list(array) for array in box_arrays(found)]
    assert np.array(result[0]).tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert result[1:] == [[2, 4], [0.5, 0.25]]
    true = Instances((10, 10), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([4, 2]))
    corners, classes, scores = box_arrays(true)
    assert corners.tolist() == boxes.tolist()
    assert classes == [4, 2]
    assert np.isnan(scores).all()
    with pytest.raises(ValueError, match="gt_boxes"):
        draw_detections(blank(), Instances((10, 10), scores=torch.zeros(0)))


def test_only_8_bit_rgb_images_are_taken():
    for image in (blank().astype(float), blank()[..., 0], np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            draw_detections(image, box_set([[0, 0, 1, 1]]))


def test_classes_have_names_and_colours():
    assert class_name(["cat", None], 0) == "cat"
    assert class_name(["cat", None], 1) == "1"
    assert class_name(["cat"], 7) == "7"
    assert class_name(None, 7) == "7"
    colors = [class_color(i) for i in range(100)]
    assert len(set(colors)) == 100
    assert all(0 <= c <= 255 for color in colors for c in color)
    assert text_color_on((255, 255, 0)) == (16, 16, 16)
    assert text_color_on((90, 0, 90)) == (255, 255, 255)
