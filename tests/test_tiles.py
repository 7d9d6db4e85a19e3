"""Tiles cover a picture, and what several of them show is found once."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from sap_detr.tiles import Tile, merge_tiles, tile_grid


@pytest.mark.parametrize("size", [(1, 1), (50, 400), (300, 301), (777, 64), (100, 100)])
@pytest.mark.parametrize("tile, overlap", [((100, 64), 0), ((100, 64), 20), ((64, 100), 63)])
def test_tiles_cover_everything_and_overlap_enough(size, tile, overlap):
    covered = np.zeros(size, int)
    tiles = tile_grid(size, tile, overlap)
    for t in tiles:
        assert (t.bottom - t.top, t.right - t.left) == tuple(np.minimum(size, tile))
        covered[t.top : t.bottom, t.left : t.right] += 1
    assert covered.min() == 1
    for axis in (0, 1):
        starts, ends = (np.unique([t[axis + 2 * side] for t in tiles]) for side in (0, 1))
        assert (ends[:-1] - starts[1:] >= overlap).all()
        assert ends[-1] == size[1 - axis]


@pytest.mark.parametrize("overlap", [-1, 64, 100])
def test_an_overlap_that_leaves_no_step_is_refused(overlap):
    with pytest.raises(ValueError, match="height, width, overlap"):
        tile_grid((300, 300), (100, 64), overlap)


LEFT, RIGHT = Tile(0, 0, 100, 80), Tile(60, 0, 160, 80)  # 40 columns in common
SIZE = (80, 160)


def instances(*detections):
    """Of (x0, y0, x1, y1, score, class), in pixels of the tile."""
    rows = torch.tensor(detections).reshape(-1, 6)
    return Instances(
        (80, 100), pred_boxes=Boxes(rows[:, :4]), scores=rows[:, 4], pred_classes=rows[:, 5].long()
    )


def merged(left, right):
    found = merge_tiles([instances(*left), instances(*right)], [LEFT, RIGHT], SIZE)
    assert found.image_size == SIZE
    rows = [found.pred_boxes.tensor, found.scores[:, None], found.pred_classes[:, None]]
    return torch.hstack(rows).round(decimals=4).tolist()


def test_what_both_see_whole_is_found_once_where_it_scores_higher():
    left, right = (70.0, 10.0, 90.0, 30.0, 0.5, 1.0), (11.0, 10.0, 31.0, 30.0, 0.75, 1.0)
    assert merged([left], [right]) == [[71, 10, 91, 30, 0.75, 1]]
    assert merged([left], []) == [[70, 10, 90, 30, 0.5, 1]]


def test_a_part_gives_way_to_the_whole_whichever_scores_higher():
    whole = (50.0, 10.0, 99.0, 30.0, 0.5, 1.0)
    for score in (0.25, 0.75):
        part = (0.0, 10.0, 39.0, 30.0, score, 1.0)
        assert merged([whole], [part]) == [[50, 10, 99, 30, max(score, 0.5), 1]]


def test_parts_of_a_large_object_become_one():
    left, right = (20.0, 10.0, 100.0, 30.0, 0.5, 1.0), (0.0, 10.0, 80.0, 31.0, 0.25, 1.0)
    assert merged([left], [right]) == [[20, 10, 140, 31, 0.5, 1]]


def test_the_edge_of_an_object_that_only_reaches_into_a_tile_is_left_to_its_neighbour():
    sliver = (0.0, 10.0, 3.0, 30.0, 0.9, 2.0)
    assert merged([(30.0, 10.0, 64.0, 30.0, 0.5, 1.0)], [sliver]) == [[30, 10, 64, 30, 0.5, 1]]


def test_others_stay_apart():
    box = (70.0, 10.0, 90.0, 30.0)
    # Of another class; of the same tile; elsewhere; the best first.
    assert len(merged([(*box, 0.5, 1.0)], [(10.0, 10.0, 30.0, 30.0, 0.5, 2.0)])) == 2
    assert len(merged([(*box, 0.5, 1.0), (*box, 0.25, 1.0)], [])) == 2
    far = merged([(*box, 0.5, 1.0)], [(10.0, 40.0, 30.0, 60.0, 0.75, 1.0)])
    assert [row[4] for row in far] == [0.75, 0.5]
    assert merged([], []) == []
