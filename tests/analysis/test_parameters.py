from __future__ import annotations

import pytest
from torch import nn

from sap_detr.analysis import (
    ParameterCount,
    build_without_weights,
    count_parameters,
    count_parameters_by_part,
)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(nn.Linear(1, 1).weight.detach())
        self.first = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.second = nn.Linear(4, 3, bias=False)
        self.again = nn.ModuleList([self.second, nn.Linear(2, 2)])
        self.second.weight.requires_grad_(False)


def test_by_part():
    model = Shared()
    # 1 + (12 + 4 + 8) + 12 + (4 + 2); the shared matrix and the buffers not again.
    assert count_parameters(model) == ParameterCount(total=43, trained=31)
    assert count_parameters_by_part(model) == {
        "": ParameterCount(1, 1),
        "first": ParameterCount(24, 24),
        "second": ParameterCount(12, 0),
        "again": ParameterCount(6, 6),
    }
    deep = count_parameters_by_part(model, depth=2)
    assert deep["first.0"] == ParameterCount(16, 16)
    assert deep["first.1"] == ParameterCount(8, 8)
    assert sum(part.total for part in deep.values()) == 43


def test_depth_below_one():
    with pytest.raises(ValueError, match="depth must be at least 1"):
        count_parameters_by_part(nn.Linear(1, 1), depth=0)


@pytest.mark.parametrize(
    "config, classes, total, trained",
    [
        ("common/models/detr_r50.py", 91, 41_524_768, 41_302_368),
        ("common/models/detr_r50.py", 80, 41_521_941, 41_299_541),
        ("common/models/sap_detr_r50.py", 91, 50_391_687, 50_168_675),
    ],
)
def test_published_models(config, classes, total, trained):
    model, _ = build_without_weights(config, classes)
    assert count_parameters(model) == ParameterCount(total, trained)
    parts = count_parameters_by_part(model)
    assert list(parts) == ["backbone", "neck", "encoder", "decoder"]
    assert sum(part.total for part in parts.values()) == total
    assert sum(part.trained for part in parts.values()) == trained
