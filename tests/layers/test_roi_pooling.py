import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import roi_align as torchvision_roi_align

from sap_detr.layers import interpolation_weights, roi_align
from sap_detr.layers.roi_pooling import PORTION

NUM_BINS = 7


def make_boxes(batch: int, queries: int, height: int, width: int) -> torch.Tensor:
    """XYXY boxes in cells, from tiny to as large as the map, many of them partly outside."""
    centre, side = torch.rand(batch, queries, 4, dtype=torch.float64).split(2, dim=-1)
    side[:, :3] = torch.tensor([1e-4, 0.3, 1.0], dtype=torch.float64)[:, None]
    size = torch.tensor([width, height], dtype=torch.float64)
    return torch.cat(((centre - side / 2) * size, (centre + side / 2) * size), dim=-1)


@pytest.mark.parametrize("form", ["product", "sampled"])
@pytest.mark.parametrize("size", [(11, 9), (3, 40), (1, 5), (30, 29)])
def test_equals_torchvision_in_values_and_gradients(form, size):
    height, width = size
    tokens = torch.randn(2, height * width, 5, dtype=torch.float64, requires_grad=True)
    boxes = make_boxes(2, 12, height, width)
    maps = tokens.transpose(1, 2).unflatten(2, size)
    expected = torchvision_roi_align(maps, list(boxes), NUM_BINS, aligned=True)
    expected = expected.unflatten(0, (2, 12)).permute(0, 1, 3, 4, 2)
    found = roi_align(tokens, size, boxes, NUM_BINS, form)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((x * weight).sum(), tokens)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


def test_portions_of_queries_are_put_together(monkeypatch):
    tokens, boxes = torch.randn(2, 20, 3, dtype=torch.float64), make_boxes(2, 9, 4, 5)
    whole = roi_align(tokens, (4, 5), boxes, NUM_BINS, "product")
    assert PORTION > 2 * 9 * 4 * NUM_BINS * 3
    # Two queries of two images at a time.
    portion = 2 * 2 * 4 * NUM_BINS * 3
    monkeypatch.setattr("sap_detr.layers.roi_pooling.PORTION", portion)
    found = roi_align(tokens, (4, 5), boxes, NUM_BINS, "product")
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


def test_boxes_have_no_gradient():
    boxes = make_boxes(1, 3, 4, 5).requires_grad_()
    tokens = torch.randn(1, 20, 3, dtype=torch.float64, requires_grad=True)
    roi_align(tokens, (4, 5), boxes, NUM_BINS).sum().backward()
    assert boxes.grad is None
    assert tokens.grad.abs().sum() > 0


def test_interpolation_is_that_of_grid_sample_in_values_and_gradients():
    values = torch.randn(6, dtype=torch.float64)
    position = torch.tensor([-1.5, -0.7, 0.0, 0.3, 2.0, 4.9, 5.0, 5.6, 7.0], dtype=torch.float64)
    position.requires_grad_()
    found = interpolation_weights(position, 6) @ values
    grid = torch.stack(((2 * position + 1) / 6 - 1, torch.zeros_like(position)), dim=-1)
    expected = F.grid_sample(values.view(1, 1, 1, 6), grid[None, None], align_corners=False)
    torch.testing.assert_close(found, expected.flatten(), rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(x.sum(), position)[0] for x in (found, expected)]
    # Exactly at a value the two sides have different derivatives; rounding decides elsewhere.
    inside = position.detach().frac() != 0
    torch.testing.assert_close(gradients[0][inside], gradients[1][inside], rtol=0, atol=1e-12)
    assert gradients[0][4] == values[3] - values[2]
