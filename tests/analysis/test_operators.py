from __future__ import annotations

import pytest
import torch

from sap_detr.analysis import Workload
from sap_detr.analysis.operators import (
    fold,
    modules_down_to,
    operator_table,
    profile_record,
    profile_report,
)

SMALL = "common/models/detr_small.py"


def test_operator_table():
    x = torch.rand(64, 64)

    def run() -> None:
        for _ in range(3):
            (x @ x).relu()

    table = operator_table(run, torch.device("cpu"), rounds=2, top=1)
    (longest,) = [line.split() for line in table.splitlines() if "aten::" in line]
    assert longest[0] == "aten::mm"
    assert longest[-1] == "6"


def test_modules():
    assert fold("encoder.layers.3.norm1") == "encoder.layers.*.norm1"
    parts = {"a": torch.nn.Sequential(torch.nn.ReLU()), "criterion": torch.nn.Identity()}
    model = torch.nn.ModuleDict(parts)
    assert [name for name, _ in modules_down_to(model, 1)] == ["a"]
    assert [name for name, _ in modules_down_to(model, 2)] == ["a", "a.*"]


@pytest.mark.parametrize("mode, part", [("inference", "postprocessor"), ("training", "matching")])
def test_record(mode, part):
    workload = Workload(SMALL, num_classes=3, size=(64, 64))
    record = profile_record(workload, mode, depth=3, rounds=1)
    names = [row["name"] for row in record["modules"]]
    assert {part, "decoder.layers.*", "backbone"} <= set(names)
    assert ("backward" in names) == (mode == "training")
    assert all(name.count(".") <= 2 for name in names)
    shares = [row["share"] for row in record["modules"]]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert "aten::addmm" in record["operators"]
    text = profile_report([record], top=2)
    assert mode in text
    assert names[1] in text
    assert names[2] not in text.split()
