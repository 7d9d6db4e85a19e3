"""Boxes as tensors (..., 4). XYXY: left, top, right, bottom. cxcywh: centre, width, height."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) from cxcywh to XYXY."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert (..., 4) from XYXY to cxcywh."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def iou_and_giou(a: Tensor, b: Tensor, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """Intersection over union and its generalised form, element by element with broadcasting.

    GIoU is ``IoU - (hull - union) / hull`` with the smallest box around both as hull
    (Rezatofighi et al., CVPR 2019).

    Args:
        a, b: (..., 4) XYXY boxes whose leading dimensions broadcast. Nothing is asserted about
            them: a degenerate box gives a number, not an error.
        eps: added to both denominators (SAP-DETR: 1e-6).

    Returns:
        IoU and GIoU, each (...).
    """
    a_left, a_top, a_right, a_bottom = a.unbind(-1)
    b_left, b_top, b_right, b_bottom = b.unbind(-1)
    width = (torch.minimum(a_right, b_right) - torch.maximum(a_left, b_left)).clamp(min=0)
    height = (torch.minimum(a_bottom, b_bottom) - torch.maximum(a_top, b_top)).clamp(min=0)
    inter = width * height
    area_a = (a_right - a_left) * (a_bottom - a_top)
    area_b = (b_right - b_left) * (b_bottom - b_top)
    union = area_a + area_b - inter
    hull_width = (torch.maximum(a_right, b_right) - torch.minimum(a_left, b_left)).clamp(min=0)
    hull_height = (torch.maximum(a_bottom, b_bottom) - torch.minimum(a_top, b_top)).clamp(min=0)
    hull = hull_width * hull_height
    iou = inter / (union + eps)
    return iou, iou - (hull - union) / (hull + eps)
