"""The marks of the documents, and whether what they show between them is still so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import write_tables
from compare_benchmarks import CompareError
from write_tables import (
    BENCHMARKS,
    LISTED,
    SIZE,
    MarkError,
    cost_row,
    cost_table,
    exponent,
    grid_table,
    growth_table,
    marked_blocks,
    measured_tables,
    peaks_of,
    times_of,
    write_blocks,
)

from sap_detr import model_zoo

ROOT = Path(__file__).parents[2]


def block_marks(name: str) -> tuple[str, str]:
    return f"<!-- benchmark:{name}:begin -->", f"<!-- benchmark:{name}:end -->"


A, A_END = block_marks("a")
B, B_END = block_marks("b")


@pytest.fixture
def two_tables(monkeypatch) -> dict[str, str]:
    """Blocks "a" and "b", and what is written there."""
    tables = {"a": "| longer |", "b": "\\1"}
    writers = {name: lambda folder, name=name: tables[name] for name in tables}
    monkeypatch.setattr(write_tables, "TABLES", writers)
    return tables


def test_blocks_are_found_and_replaced(two_tables, tmp_path):
    text = f"before\n\n{A}\n\nold\n\n{A_END}\n\nbetween\n{B}\n{B_END}\nafter\n"
    assert marked_blocks(text) == {"a": "old", "b": ""}
    new = write_blocks(text, tmp_path)
    assert marked_blocks(new) == two_tables
    assert new == (
        f"before\n\n{A}\n\n| longer |\n\n{A_END}\n\nbetween\n{B}\n\n\\1\n\n{B_END}\nafter\n"
    )
    assert write_blocks(new, tmp_path) == new


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "here shows no table: there must be one line"),
        (f"{A}\n", "a:begin --> is not in a pair"),
        (f"{A}\n{A_END}\n<!-- benchmark:begin -->\n", "benchmark:begin --> is not in a pair"),
        (f"{A}\n{A_END}\n<!-- benchmark:B2:end -->\n", "benchmark:B2:end --> is not in a pair"),
        (f"{A_END}\n{A}\n", "a:end --> is not in a pair: .* one line .*begin.* one .*end.* after"),
        (f"{A}\n{B_END}\n", "a:begin --> is not in a pair"),
        (f"{A}\n{A_END}\n{A}\n{A_END}\n", "here has a block twice"),
        (f"{A}\n{B}\n{B_END}\n{A_END}\n", "b:begin --> is not in a pair"),
        (f"{A}\n{B}\n{A_END}\n{B_END}\n", "b:begin --> is not in a pair"),
    ],
)
def test_marks_that_are_no_pairs(two_tables, text, message):
    with pytest.raises(MarkError, match=message):
        marked_blocks(text, "here")


def test_unknown_block():
    with pytest.raises(MarkError, match="no block is called other: there are measured, growth"):
        marked_blocks("\n".join(block_marks("other")))


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(write_tables.TABLES, "costs", lambda folder: f"| costs | {folder.name} |")
    begin, end = block_marks("costs")
    file, other = tmp_path / "README.md", tmp_path / "other.md"
    file.write_text(f"# Title\n\n{begin}\n{end}\n\nEnd\n")
    other.write_text("# Title\n")
    before = file.read_text()
    benchmarks = ["--benchmarks", str(tmp_path)]
    assert write_tables.main([str(file), str(other), *benchmarks]) == 2
    error = capsys.readouterr().err
    assert error.startswith("write_tables: ")
    assert "other.md shows no table" in error
    assert "<!-- benchmark:NAME:begin -->" in error
    assert file.read_text() == before
    assert write_tables.main([str(file), *benchmarks]) == 0
    assert f"begin -->\n\n| costs | {tmp_path.name} |\n\n<!--" in file.read_text()
    assert write_tables.main([str(tmp_path / "nothing.md")]) == 2
    assert "nothing.md" in capsys.readouterr().err


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    return marked_blocks((ROOT / "docs" / "costs.md").read_text(encoding="utf-8"))


def test_listed_configs_exist():
    assert set(LISTED) <= set(model_zoo.list_configs())


@pytest.mark.parametrize("config", LISTED, ids=lambda config: Path(config).stem)
def test_document_has_costs(blocks, config):
    """Parameters and FLOPs at one size; all sizes take minutes."""
    row = cost_row(config, [[SIZE]])
    lines = [line for line in blocks["costs"].splitlines() if line.startswith(f"| {row[0]} ")]
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert [*cells[:4], cells[-1]] == row


@pytest.mark.slow
def test_document_has_table_of_costs(blocks):
    assert blocks["costs"] == cost_table()


def test_document_has_measurements(blocks):
    """What the files of speed and memory say, no more and no less."""
    measured = [name for name in blocks if name != "costs"]
    assert measured
    for name in measured:
        marks = "\n".join(block_marks(name))
        assert blocks[name] == marked_blocks(write_blocks(marks, BENCHMARKS))[name]


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


def timed(side: int, seconds: float) -> dict:
    parts = {"backbone": seconds / 2, "encoder": seconds / 2, "decoder": 1.0}
    return {
        "config": "detr/x.py",
        "size": [side, side],
        "inference": {"median": seconds, "parts": parts},
        "step": {"median": 3 * seconds},
    }


def sized(side: int, mebibytes: int) -> dict:
    figures = {"model": 100 * 2**20, "peak": (100 + mebibytes) * 2**20}
    return {
        "config": "detr/x.py",
        "size": [side, side],
        "inference": figures,
        "training": figures,
    }


def test_exponent():
    assert exponent([10, 20], [1, 8]) == pytest.approx(3)


def test_growth():
    # Twice the side is four times the pixels: time grows by their square, memory in proportion.
    speed = [timed(100, 1.0), timed(200, 16.0)]
    memory = [sized(100, 5), sized(200, 20)]
    header, _, row = growth_table(speed, memory, (100, 200)).splitlines()
    found = dict(zip(header.split("|"), row.split("|"), strict=True))
    found = {name.strip(): cell.strip() for name, cell in found.items() if name}
    assert found == {
        "config": "x",
        "inference": "2.00",
        "backbone": "2.00",
        "encoder": "2.00",
        "decoder": "0.00",
        "training step": "2.00",
        "its memory": "1.00",
    }
    with pytest.raises(CompareError, match="not measured at 300x300"):
        growth_table(speed, memory, (100, 300))


def test_grid():
    records = [timed(100, 1.0), timed(200, 2.0), {**timed(200, 4.0), "config": "y.py"}]

    def column(record: dict) -> str:
        return str(record["size"][0])

    lines = grid_table(records, column, times_of).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["config", "100", "200"]
    assert cells[2:] == [["x", "1,000 / 3,000", "2,000 / 6,000"], ["y", "", "4,000 / 12,000"]]
    assert peaks_of(sized(100, 5)) == "105 / 105"
    with pytest.raises(CompareError, match="two records of detr/x"):
        grid_table([records[0], records[0]], column, times_of)
