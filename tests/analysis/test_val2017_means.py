"""The figures of docs/costs.md: means over the first 100 images of COCO val2017."""

import pytest

from sap_detr.analysis import build_without_weights, coco_val2017_sizes
from sap_detr.analysis.published import flop_records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "by_file", "by_id"),
    [
        ("detr/detr_r50_500ep.py", 86.1, 84.6),
        ("detr/detr_dc5_r50_500ep.py", 186.2, 182.6),
        ("sap_detr/sap_detr_dc5_r50_50ep.py", 207.4, 203.5),
        ("sap_detr/sap_detr_dc5_r101_50ep.py", 274.8, 269.7),
    ],
)
def test_counted_as_published(config, by_file, by_id):
    model, classes = build_without_weights(config)
    assert classes == 91
    sizes = {order: coco_val2017_sizes(order) for order in ("file", "id")}
    means = [record["published"]["total"] / 1e9 for record in flop_records(model, sizes)]
    assert means == pytest.approx([by_file, by_id], abs=0.1)
