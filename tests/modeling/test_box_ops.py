import pytest
import torch
from torchvision import ops

from sap_detr.modeling import cxcywh_to_xyxy, iou_and_giou, xyxy_to_cxcywh


def random_boxes(*shape: int) -> torch.Tensor:
    corners = torch.rand(*shape, 2, 2, dtype=torch.float64)
    return torch.cat((corners.amin(-2), corners.amax(-2)), dim=-1)


def test_conversions_equal_torchvision():
    boxes = random_boxes(3, 7)
    centred = xyxy_to_cxcywh(boxes)
    expected = ops.box_convert(boxes, "xyxy", "cxcywh")
    torch.testing.assert_close(centred, expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(cxcywh_to_xyxy(centred), boxes, rtol=0, atol=1e-15)


def test_iou_and_giou_equal_torchvision():
    a, b = random_boxes(40), random_boxes(30)
    iou, giou = iou_and_giou(a[:, None], b)
    torch.testing.assert_close(iou, ops.box_iou(a, b), rtol=0, atol=1e-14)
    torch.testing.assert_close(giou, ops.generalized_box_iou(a, b), rtol=0, atol=1e-14)
    assert (iou == 0).any()
    assert (giou < -0.5).any()


def test_eps_is_in_both_denominators():
    a = torch.tensor([0.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    b = torch.tensor([1.0, 1.0, 3.0, 3.0], dtype=torch.float64)
    iou, giou = iou_and_giou(a, b, eps=0.5)
    assert iou == pytest.approx(1 / 7.5)
    assert giou == pytest.approx(1 / 7.5 - 2 / 9.5)


def test_a_degenerate_box_beside_a_real_one_is_finite():
    line = torch.tensor([0.2, 0.2, 0.2, 0.6], dtype=torch.float64)
    inverted = torch.tensor([0.6, 0.6, 0.2, 0.2], dtype=torch.float64)
    real = torch.tensor([0.1, 0.1, 0.5, 0.5], dtype=torch.float64)
    for box in (line, inverted):
        for pair in ((box, real), (real, box)):
            assert all(x.isfinite() for x in iou_and_giou(*pair))
    assert iou_and_giou(line, real)[0] == 0


def test_two_points_are_no_error_and_finite_with_eps():
    point = torch.tensor([0.3, 0.3, 0.3, 0.3], dtype=torch.float64)
    assert all(x.isnan() for x in iou_and_giou(point, point))
    assert all(x == 0 for x in iou_and_giou(point, point, eps=1e-6))


def test_gradients_equal_torchvision():
    a, b = random_boxes(20).requires_grad_(), random_boxes(20)
    (mine,) = torch.autograd.grad(iou_and_giou(a, b)[1].sum(), a)
    (theirs,) = torch.autograd.grad(ops.generalized_box_iou(a, b).diagonal().sum(), a)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
