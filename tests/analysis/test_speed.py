from __future__ import annotations

import pytest
import torch

from sap_detr.analysis import Workload, speed
from sap_detr.analysis.speed import roofline, speed_record, speed_report, summary

SMALL = "common/models/sap_detr_small.py"


def test_relative_figures_compare_neighbours():
    """The machine is half as fast in the second round; the third is disturbed in one place each."""
    runs = {
        "inference": [{"a": 1, "b": 2}, {"a": 2, "b": 4}, {"a": 90}],
        "body_forward": [{"": 2}, {"": 4}, {"": 2}],
        "batch": [{"a": 8}] * 3,
        "step": [{"forward": 5}, {"forward": 10}, {"forward": 5}],
        "body_step": [{"": 4}, {"": 8}, {"": 4000}],
    }
    record = summary(runs, batch=4)
    assert record["inference"]["median"] == 6
    assert record["inference"]["parts"] == {"a": 2, "b": 2}
    assert record["images_per_second"] == 0.5
    assert record["relative"]["inference"]["median"] == 1.5
    assert record["relative"]["step"]["median"] == 1.25
    assert record["relative"]["body_step"]["median"] == 8
    # Without the body there is nothing to compare with, and one image is a batch.
    record = summary({"inference": runs["inference"]}, batch=1)
    assert record["images_per_second"] == pytest.approx(1 / 6)
    assert record.keys() == {"inference", "images_per_second"}


def test_roofline():
    runs = {
        "matmul": [{"": 1}, {"": 2}],
        "inference": [{"a": 4, "b": 4}, {"a": 8, "b": 8}],
    }
    figures = roofline(runs, {"a": 30, "b": 8, "c": 0, "": 2}, matmul_flop=20)
    assert figures["matmul"] == pytest.approx(20 / 1.5)
    # 80 operations in 8 s next to a product of 20 in 1 s.
    assert figures["total"]["share"] == 0.5
    assert figures["parts"]["a"] == {"rate": 10, "share": 0.75}
    # What has no time or no operations of its own has no rate.
    assert figures["parts"].keys() == {"a", "b"}


@pytest.fixture(scope="module")
def records():
    patch = pytest.MonkeyPatch()
    patch.setattr(speed, "_MATMUL_SIDE", {"cpu": 64})
    workload = Workload(SMALL, ("model.encoder.num_layers=1",), 5, (64, 96), batch=2)
    yield [
        speed_record(workload, rounds=2, warm_up=1, relative_to_body=True),
        speed_record(workload, rounds=1, warm_up=0, training=False),
    ]
    patch.undo()


def test_record(records):
    record, inference_only = records
    assert record["config"] == SMALL
    assert (record["size"], record["batch"], record["objects"]) == ([64, 96], 2, 7)
    assert (record["classes"], record["data"], record["rounds"]) == (5, "synthetic", 2)
    for name, parts in (
        ("inference", {"other", "backbone", "neck", "encoder", "decoder", "postprocessor"}),
        ("step", {"data", "forward", "matching", "losses", "backward", "optimizer"}),
    ):
        figures = record[name]
        assert figures["parts"].keys() == parts
        assert figures["min"] <= figures["median"] <= figures["p90"]
        # Of two rounds medians are means, so that the parts add up to the whole.
        assert sum(figures["parts"].values()) == pytest.approx(figures["median"])
        assert record["relative"][name]["median"] > 0
    assert record["roofline"]["parts"].keys() == {"backbone", "neck", "encoder", "decoder"}
    assert sum(record["host_syncs"].values()) == 1
    assert not {"step", "relative", "host_syncs"} & inference_only.keys()


@pytest.mark.parametrize("tablefmt", ["simple", "github"])
def test_report(records, tablefmt):
    text = speed_report(records, tablefmt)
    for word in ("64x96", "backward", "matching", "synthetic", "step / body", "body: ", "GFLOP/s"):
        assert word in text
    assert f"{records[0]['step']['median'] * 1e3:.1f} (" in text
    assert f"{records[0]['relative']['step']['median']:.2f} (" in text
    assert "1 x cpu at modeling/matcher.py" in text
    assert "training step" not in speed_report(records[1:], tablefmt)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_gpu():
    workload = Workload(SMALL, num_classes=5, size=(64, 96), device="cuda", dtype="bfloat16")
    record = speed_record(workload, rounds=2, relative_to_body=True)
    for name in ("inference", "step"):
        assert sum(record[name]["parts"].values()) == pytest.approx(record[name]["median"])
    assert sum(record["host_syncs"].values()) == 1
