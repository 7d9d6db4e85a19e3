"""Geometry of reference points and their sides (SAP-DETR, section 3).

A query has a point in its cell of a fixed grid over the image, and the distances (left, top, right,
bottom) from the point to the sides of its box. All are fractions of the image; points are (x, y).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of the inverse sigmoid of references, in SAP-DETR's and DINO's checkpoints and everywhere else. It
# is large: a point that is less than a thousandth of the image from the corner of its cell is taken
# to be that far.
EPS = 1e-3


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of x clipped to [0, 1], with numerator and denominator kept at ``eps`` or more."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def grid_points(rows: int, columns: int) -> Tensor:
    """Return the top left corners of a grid's cells, row by row: (rows * columns, 2).

    Raises:
        ValueError: if the grid has no cells.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"a grid needs at least one row and one column, got {rows} x {columns}")
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    sizes = torch.tensor([columns, rows])
    return torch.stack((x, y), dim=-1).flatten(0, 1) / sizes


def corners_from_sides(points: Tensor, sides: Tensor) -> Tensor:
    """XYXY boxes (..., 4) of points (..., 2) with sides (..., 4); they may leave the image."""
    return torch.cat((points - sides[..., :2], points + sides[..., 2:]), dim=-1)


def boxes_from_sides(points: Tensor, sides: Tensor) -> Tensor:
    """cxcywh boxes (..., 4) of points (..., 2) with sides (..., 4)."""
    before, after = sides.split(2, dim=-1)
    return torch.cat((points + (after - before) / 2, before + after), dim=-1)


def points_outside_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points (..., 2) are outside of XYXY boxes (..., 4), with broadcasting: (...)."""
    x, y = points.unbind(-1)
    left, top, right, bottom = boxes.unbind(-1)
    return (x < left) | (y < top) | (x > right) | (y > bottom)
