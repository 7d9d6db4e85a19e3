from __future__ import annotations

import pytest

from sap_detr.analysis import CompareError
from sap_detr.analysis.growth import exponent, grid_table, growth_table, peaks_of, times_of


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
