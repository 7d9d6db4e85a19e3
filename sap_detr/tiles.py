"""Large pictures in tiles: how they are cut, and which detections are of one object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Of two detections in the area that both their tiles show, to be one object.
_SAME_IOU = 0.5
# A side that comes so close to that of its tile, in pixels or as a share of it, is cut off there.
_CUT_PIXELS, _CUT_SHARE = 2.0, 0.01


class Tile(NamedTuple):
    """A part of a picture: first and last column and row, the last excluded, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def tile_grid(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Tile]:
    """Cover a picture with tiles of one size, evenly spaced, row by row.

    Args:
        size: height and width of the picture.
        tile: height and width of a tile; a smaller picture is one tile in that direction.
        overlap: least pixels that neighbours have in common.

    Raises:
        ValueError: the overlap is not from 0 to less than both sides of a tile.
    """
    if not 0 <= overlap < min(tile):
        raise ValueError(
            f"tile is (height, width, overlap) in pixels, with an overlap from 0 to less than "
            f"both; got {(*tile, overlap)}"
        )
    rows, columns = (_starts(n, t, overlap) for n, t in zip(size, tile, strict=True))
    height, width = (min(n, t) for n, t in zip(size, tile, strict=True))
    return [Tile(x, y, x + width, y + height) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    count = 1 + max(0, math.ceil((length - tile) / (tile - overlap)))
    return [round(start) for start in np.linspace(0, max(0, length - tile), count)]


def merge_tiles(
    found: Sequence[Instances], tiles: Sequence[Tile], size: tuple[int, int]
) -> Instances:
    """Put the detections of all tiles together, each object once.

    What lies wholly in the outer half of an overlap is left to the neighbour, which shows more
    around it. Two detections of neighbours are of one object if they have the same class and
    coincide (IoU over 0.5) in the area that both tiles show: of them the one with the higher score
    stays. If that is cut off by the border of its tile, it grows by the others: so an object that
    is larger than the overlap becomes one box, and whole as far as its parts follow one another
    from tile to tile. Two of the same tile become one only where a neighbour's coincides with both,
    as when a tile found an object twice.

    Args:
        found: per tile, ``pred_boxes`` (XYXY pixels of the tile), ``scores``, ``pred_classes``.
        tiles: of the picture.
        size: height and width of the picture.

    Returns:
        The three fields, in pixels of the picture, the best first.
    """
    counts = [len(instances) for instances in found]
    number = np.repeat(np.arange(len(tiles)), counts)
    tile = np.array(tiles, np.float64).reshape(-1, 4)[number]
    boxes = (
        np.concatenate([i.pred_boxes.tensor.double().numpy() for i in found]) + tile[:, [0, 1] * 2]
    )
    scores, classes = (
        torch.cat([i.get(name) for i in found]) for name in ("scores", "pred_classes")
    )
    order = torch.argsort(scores, descending=True, stable=True).numpy()
    outer = _in_outer_half(boxes, number, tiles)
    order = order[~outer[order]]
    boxes, tile, number = boxes[order], tile[order], number[order]
    scores, classes = scores[order], classes[order]
    label = classes.numpy()
    cut = _is_cut(boxes, tile, size)
    merged = boxes.copy()
    is_open = np.ones(len(boxes), bool)
    kept = []
    for best in range(len(boxes)):
        if not is_open[best]:
            continue
        kept.append(best)
        is_open[best] = False
        members, index = [best], 0
        while index < len(members):
            member = members[index]
            others = np.flatnonzero(is_open & (label == label[member]) & (number != number[member]))
            same = others[_iou_in_common(boxes, tile, member, others) > _SAME_IOU]
            is_open[same] = False
            members += same.tolist()
            index += 1
        if cut[best].any():
            merged[best, :2] = boxes[members, :2].min(0)
            merged[best, 2:] = boxes[members, 2:].max(0)
    result = Instances(size, scores=scores[kept], pred_classes=classes[kept])
    result.pred_boxes = Boxes(torch.from_numpy(merged[kept]).to(scores.dtype))
    return result


def _in_outer_half(boxes: Floats, number: NDArray[Any], tiles: Sequence[Tile]) -> NDArray[Any]:
    """Say which boxes a neighbour sees better."""
    grid = np.array(tiles, np.float64).reshape(-1, 4)
    outer = np.zeros(len(boxes), bool)
    for low, high in ((0, 2), (1, 3)):
        starts, ends = np.unique(grid[:, low]), np.unique(grid[:, high])
        middles = (starts[1:] + ends[:-1]) / 2
        borders_low = np.concatenate([[-np.inf], middles])
        borders_high = np.concatenate([middles, [np.inf]])
        place = np.searchsorted(starts, grid[number, low])
        outer |= (boxes[:, high] < borders_low[place]) | (boxes[:, low] > borders_high[place])
    return outer


def _is_cut(boxes: Floats, tile: Floats, size: tuple[int, int]) -> NDArray[Any]:
    """Say which sides of boxes (N, 4) end at a border of their tile inside of the picture."""
    height, width = size
    margin = np.maximum(_CUT_PIXELS, _CUT_SHARE * (tile[:, 2:] - tile[:, :2]))
    inner = tile != np.array([0, 0, width, height])
    return np.asarray(inner & (np.abs(boxes - tile) <= np.hstack([margin, margin])))


def _iou_in_common(boxes: Floats, tile: Floats, member: int, others: NDArray[Any]) -> Floats:
    """IoU of a box with others, each pair within the area that both tiles show; 0 outside of it."""
    low = np.maximum(tile[member, :2], tile[others, :2])
    high = np.minimum(tile[member, 2:], tile[others, 2:])
    first = _clipped(boxes[member][None], low, high)
    second = _clipped(boxes[others], low, high)
    shared = _clipped(first, second[:, :2], second[:, 2:])
    a, b, both = (_area(part) for part in (first, second, shared))
    return np.asarray(both / np.maximum(a + b - both, np.finfo(np.float64).tiny))


def _clipped(boxes: Floats, low: Floats, high: Floats) -> Floats:
    return np.hstack([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)])


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1))
