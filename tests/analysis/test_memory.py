from __future__ import annotations

import mmap
import sys

import pytest

from sap_detr.analysis import Workload, memory
from sap_detr.analysis.memory import (
    MeasureError,
    memory_record,
    memory_report,
    peak_memory,
    reset_peak_resident,
    resident,
)

SMALL = "common/models/sap_detr_small.py"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory():
    before = resident()
    with mapped(64) as block:
        block.write(b"x" * len(block))
        assert resident() - before > 60 * 2**20
    reset_peak_resident()
    settled = resident(peak=True)
    with mapped(48) as block:
        for _ in range(48):
            block.write(b"x" * 2**20)
    assert 40 * 2**20 < resident(peak=True) - settled < 80 * 2**20


def mapped(mebibytes):
    """Memory of its own: an allocation may get what the process holds already."""
    return mmap.mmap(-1, mebibytes * 2**20)


def test_record_and_report(monkeypatch):
    asked = []

    def measure(what, function):
        workload, mode, threads = function.args
        asked.append((what, threads))
        if workload.device == "cuda":
            return {"model": 0, "peak": 2**20, "reserved": 2**21}
        peak = {"inference": 30, "training": 70}[mode]
        return {"imports": 10 * 2**20, "model": 20 * 2**20, "peak": peak * 2**20}

    monkeypatch.setattr(memory, "in_new_process", measure)
    record = memory_record(Workload("a.py", size=(64, 96), batch=2), 3)
    assert asked == [("inference of a.py", 3), ("training of a.py", 3)]
    assert record["inference"]["peak"] == 30 * 2**20
    assert record["size"] == [64, 96]
    table = memory_report([record])
    config, size, precision, *cells = table.splitlines()[2].split()
    assert (config, size, precision) == ("a.py", "64x96", "float32")
    assert cells == ["2", "10", "20", "30", "(10)", "70", "(50)"]
    record = memory_record(Workload("a.py", device="cuda"))
    assert "1 (2)" in memory_report([record], "github")


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_peak_memory(mode):
    """In this process: a new one takes seconds to import everything."""
    workload = Workload(SMALL, ("model.decoder.num_layers=1",), 3, (64, 64))
    figures = peak_memory(workload, mode)
    # Building the model can free a little of what other tests have left behind.
    assert 0 < figures["imports"] < 1.05 * figures["peak"]
    assert figures.keys() == {"imports", "model", "peak"}


@pytest.mark.slow
def test_new_process():
    record = memory_record(Workload(SMALL, num_classes=3, size=(256, 256)), threads=1)
    assert record["training"]["peak"] > record["inference"]["peak"] > record["inference"]["model"]
    with pytest.raises(MeasureError, match=r"inference of nothing.py failed: .*nothing.py"):
        memory_record(Workload("nothing.py"))
