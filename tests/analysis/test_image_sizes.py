from __future__ import annotations

import pytest

from sap_detr.analysis import coco_val2017_sizes


@pytest.mark.parametrize("order, area", [("file", 904_206), ("id", 888_477)])
def test_mean_area(order, area):
    sizes = coco_val2017_sizes(order)
    assert len(sizes) == 100
    assert all(min(size) <= 800 and max(size) <= 1333 for size in sizes)
    assert round(sum(h * w for h, w in sizes) / 100) == area


def test_original_sizes_by_order():
    # 427x640 and 426x640.
    assert coco_val2017_sizes("file")[0] == (800, 1199)
    assert coco_val2017_sizes("id")[0] == (800, 1201)


def test_unknown_order():
    with pytest.raises(ValueError, match="'area'"):
        coco_val2017_sizes("area")
