"""The marks of the documents, and whether what they show between them is still so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sap_detr import model_zoo
from sap_detr.analysis import (
    CompareError,
    MarkError,
    build_without_weights,
    known_blocks,
    write_blocks,
)
from sap_detr.analysis.marks import block_marks, marked_blocks
from sap_detr.analysis.readme import LISTED, SIZE, cost_cells, cost_table, measured_tables

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "docs" / "benchmarks"


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    return marked_blocks((ROOT / "docs" / "costs.md").read_text(encoding="utf-8"))


def test_listed_configs_exist():
    assert {row.config for row in LISTED} <= set(model_zoo.list_configs())


@pytest.mark.parametrize("row", LISTED, ids=lambda row: Path(row.config).stem)
def test_document_has_costs(blocks, row):
    """Parameters and FLOPs at one size; all sizes take minutes."""
    model, _ = build_without_weights(row.config, 91)
    (name, *parameters), (flops,) = cost_cells(row, model, {"": [SIZE]})
    lines = [line for line in blocks["costs"].splitlines() if line.startswith(f"| {name} ")]
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells[:4] == [name, *parameters, flops]
    assert cells[-1] == row.gflops


@pytest.mark.slow
def test_document_has_table_of_costs(blocks):
    assert blocks["costs"] == cost_table()


def test_document_has_measurements():
    """What the files of speed and memory say, no more and no less."""
    text = (ROOT / "docs" / "costs.md").read_text(encoding="utf-8")
    blocks = marked_blocks(text)
    measured = [name for name in known_blocks(text) if name != "costs"]
    assert measured
    for name in measured:
        marks = block_marks(name)
        assert blocks[name] == marked_blocks(write_blocks("\n".join(marks), BENCHMARKS))[name]


def test_unknown_block():
    with pytest.raises(MarkError, match="no block is called other: there are measured, growth"):
        known_blocks("\n".join(block_marks("other")))


def test_measured_tables(tmp_path):
    common = {"config": "detr/x.py", "size": [64, 96], "batch": 2, "dtype": "float32"}
    machine = {"device": "cpu", "name": "A B", "threads": 2, "torch": "2.5"}
    speed = {
        **common,
        "compiled": True,
        "inference": {"median": 1.5},
        "step": {"median": 2.5},
        "relative": {"inference": {"median": 1.125}, "step": {"median": 1.25}},
        "roofline": {"total": {"share": 0.5}},
    }
    memory = {
        **common,
        "compiled": False,
        "inference": {"peak": 2**30},
        "training": {"peak": 3 * 2**30},
    }
    params = {"config": "detr/x.py", "total": 5}
    for kind, record in (("speed", speed), ("memory", memory), ("params", params)):
        content = {"kind": kind, "machine": machine, "records": [record]}
        (tmp_path / f"{kind}_cpu.json").write_text(json.dumps(content))
    text = measured_tables(tmp_path)
    assert "Speed on cpu (A B, 2 threads), torch 2.5:" in text
    for cell in ("2 of 64x96, float32, compiled", "1,500", "2,500", "1.12", "1.25", "50%"):
        assert f" {cell} |" in text
    for cell in ("x", "2 of 64x96, float32", "1,024", "3,072"):
        assert f" {cell} " in text
    assert text.count("| x ") == 2
    with pytest.raises(CompareError, match="there is no memory_"):
        measured_tables(tmp_path / "nothing")
    (tmp_path / "params_cpu.json").rename(tmp_path / "speed_other.json")
    with pytest.raises(CompareError, match="params, not speed"):
        measured_tables(tmp_path)
