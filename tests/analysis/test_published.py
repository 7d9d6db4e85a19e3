from __future__ import annotations

import pytest
from torch import nn

from sap_detr.analysis import build_without_weights, count_published_flops, reformulation_savings
from sap_detr.analysis.published import flop_records


@pytest.mark.parametrize(
    "dc5, depth, size, published",
    [
        (False, 50, (800, 1066), 90.2),
        (True, 50, (800, 1201), 223.7),
        (True, 101, (800, 1201), 295.7),
    ],
)
def test_sap_detr_published_code(dc5, depth, size, published):
    """Counts of the published code, measured with fvcore."""
    model, _ = build_without_weights(
        "common/models/sap_detr_r50.py",
        91,
        [f"model.backbone.dc5={dc5}", f"model.backbone.depth={depth}"],
    )
    executed, as_published = count_published_flops(model, size)
    assert as_published.total / 1e9 == pytest.approx(published, abs=0.05)
    assert 0.99 * as_published.total < executed.total < 0.999 * as_published.total
    difference = as_published.by_part()["decoder"] - executed.by_part()["decoder"]
    assert difference == as_published.total - executed.total
    assert not model.decoder._forward_pre_hooks


def test_saving_is_what_the_wider_product_would_cost():
    """Q x N x (96 - 64) per head: the cross-attention's first product, with and without."""
    heads, queries, tokens = 8, 12, 4 * 5
    saved = heads * queries * tokens * (96 - 64)
    overrides = ["model.decoder.grid_size=[3,4]", "model.decoder.num_layers=1"]
    model, _ = build_without_weights("common/models/sap_detr_r50.py", 91, overrides)
    executed, as_published = count_published_flops(model, (128, 160))
    assert as_published.total - executed.total == saved


def test_folded_gaussian_takes_channels_back():
    overrides = ["model.decoder.num_layers=2", "model.encoder.num_layers=0"]
    counts = []
    for form in ("bias", "folded"):
        model, _ = build_without_weights(
            "common/models/sap_detr_small.py",
            91,
            [*overrides, f"model.decoder.gaussian_form={form}"],
        )
        # Autocast, which this form turns off, does not know the meta device.
        model.to_empty(device="cpu")
        counts.append(count_published_flops(model, (64, 96)))
    (bias, published), (folded, same) = counts
    assert folded.total > bias.total
    assert same.total == published.total


def test_nothing_is_saved_by_default():
    assert reformulation_savings(nn.Identity(), [], None) == {}
    model, _ = build_without_weights("common/models/detr_small.py", 3)
    executed, as_published = count_published_flops(model, (64, 64))
    assert executed.total == as_published.total


def test_record_weighs_sizes():
    model, _ = build_without_weights("common/models/sap_detr_small.py", 3)
    images = {"small": [(64, 64)], "large": [(64, 96)], "all": [(64, 64)] * 3 + [(64, 96)]}
    small, large, mean = flop_records(model, images)
    assert [record["images"] for record in (small, large, mean)] == list(images)
    for kind in ("published", "all_heads", "inference"):
        expected = 0.75 * small[kind]["total"] + 0.25 * large[kind]["total"]
        assert mean[kind]["total"] == pytest.approx(expected)
        assert sum(mean[kind]["parts"].values()) == pytest.approx(mean[kind]["total"])
    assert mean["inference"]["total"] < mean["all_heads"]["total"] < mean["published"]["total"]
    assert mean["uncounted"] == {}
