"""How time and memory grow with the size of the images, and what precision and compiling change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from .compare import CompareError
from .memory import mebibytes
from .report import Record, format_table

GROWTH_NOTE = (
    "Exponents say how time, or the memory that came with the run, grew with the number of pixels "
    "between the two sizes: 1 is in proportion, 2 is what attention among all pairs of cells does."
)


def grid_table(
    records: Sequence[Record],
    column: Callable[[Record], str],
    cell: Callable[[Record], str],
    tablefmt: str = "pipe",
) -> str:
    """Return a row per config, and a column per something else.

    Args:
        records: of speed or memory.
        column: the header of the column that a record belongs to.
        cell: what stands there.
        tablefmt: tabulate's.

    Raises:
        CompareError: if two records belong to one cell.
    """
    columns = list(dict.fromkeys(column(record) for record in records))
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        row = rows.setdefault(Path(record["config"]).stem, {})
        if column(record) in row:
            raise CompareError(f"two records of {record['config']}, {column(record)}")
        row[column(record)] = cell(record)
    cells = [[name, *(row.get(c, "") for c in columns)] for name, row in rows.items()]
    return format_table(cells, ["config", *columns], tablefmt)


def times_of(record: Record) -> str:
    """Milliseconds of inference and of a training step."""
    values = [record[name]["median"] for name in ("inference", "step") if name in record]
    return " / ".join(f"{value * 1e3:,.0f}" for value in values)


def peaks_of(record: Record) -> str:
    """MiB of inference and of training steps."""
    return " / ".join(mebibytes(record[mode]["peak"]) for mode in ("inference", "training"))


def growth_table(speed: Sequence[Record], memory: Sequence[Record], sizes: tuple[int, int]) -> str:
    """Exponents of growth between two sizes of square images.

    Args:
        speed, memory: records of the same configs at several sizes.
        sizes: sides in pixels, the smaller first.

    Raises:
        CompareError: if a config was not measured at both.
    """
    pixels = [side * side for side in sizes]
    rows = []
    for config in dict.fromkeys(record["config"] for record in speed):
        found: dict[str, list[float]] = {}
        for side in sizes:
            timed, sized = (_record_of(records, config, side) for records in (speed, memory))
            figures = {
                "inference": timed["inference"]["median"],
                **{name: timed["inference"]["parts"][name] for name in _PARTS},
                "training step": timed["step"]["median"],
                "its memory": sized["training"]["peak"] - sized["training"]["model"],
            }
            for name, value in figures.items():
                found.setdefault(name, []).append(value)
        cells = [f"{exponent(pixels, values):.2f}" for values in found.values()]
        rows.append([Path(config).stem, *cells])
    return format_table(rows, ["config", *found], "pipe")


_PARTS = ("backbone", "encoder", "decoder")


def _record_of(records: Sequence[Record], config: str, side: int) -> Record:
    for record in records:
        if record["config"] == config and record["size"] == [side, side]:
            return record
    raise CompareError(f"{config} was not measured at {side}x{side}")


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the e with values[1] / values[0] = (sizes[1] / sizes[0]) ** e."""
    return math.log(values[1] / values[0]) / math.log(sizes[1] / sizes[0])
