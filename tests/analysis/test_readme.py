"""The marks of the README, and whether what it shows between them is still so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sap_detr import model_zoo
from sap_detr.analysis import (
    MarkError,
    build_without_weights,
    cost_table,
    measured_tables,
    replace_between_marks,
)
from sap_detr.analysis.readme import (
    BEGIN,
    END,
    LISTED,
    SIZE,
    block_between_marks,
    cost_cells,
)

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "docs" / "benchmarks"


@pytest.fixture(scope="module")
def block() -> str:
    return block_between_marks((ROOT / "README.md").read_text(encoding="utf-8"))


def test_marks():
    text = f"before\n\n{BEGIN}\n\nold\n\n{END}\nafter\n"
    assert block_between_marks(text) == "old"
    new = replace_between_marks(text, "| new |")
    assert new == f"before\n\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"
    assert replace_between_marks(new, "old") == text
    for wrong in ("", f"{END}\n{BEGIN}\n", f"{text}{BEGIN}\n"):
        with pytest.raises(MarkError, match="there must be one"):
            replace_between_marks(wrong, "new")


def test_listed_configs_exist():
    assert {row.config for row in LISTED} <= set(model_zoo.list_configs())


@pytest.mark.parametrize("row", LISTED, ids=lambda row: Path(row.config).stem)
def test_readme_has_costs(block, row):
    """Parameters and FLOPs at one size; all sizes take minutes."""
    model, _ = build_without_weights(row.config, 91)
    (name, *parameters), (flops,) = cost_cells(row, model, {"": [SIZE]})
    lines = [line for line in block.splitlines() if line.startswith(f"| {name} ")]
    # The first is that of the table of costs.
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells[:4] == [name, *parameters, flops]
    assert cells[-1] == row.gflops


@pytest.mark.slow
def test_readme_has_table_of_costs(block):
    assert block.startswith(cost_table())


def test_readme_has_measurements(block):
    """What the files of speed and memory say, no more and no less."""
    assert block.endswith(measured_tables(BENCHMARKS))
    assert block.count("Speed on ") == measured_tables(BENCHMARKS).count("Speed on ")


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
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
    text = measured_tables(tmp_path)
    assert "Speed on cpu (A B, 2 threads), torch 2.5:" in text
    for cell in ("2 of 64x96, float32, compiled", "1,500", "2,500", "1.12", "1.25", "50%"):
        assert f" {cell} |" in text
    for cell in ("x", "2 of 64x96, float32", "1,024", "3,072"):
        assert f" {cell} " in text
    assert text.count("| x ") == 2
    assert measured_tables(tmp_path / "nothing") == ""
