"""Records of what was measured or counted, as tables for the screen and Markdown."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

Record = dict[str, Any]
Cell = Callable[[Record], str]
# Header of a column to what stands there.
Columns = Mapping[str, Cell]


def record_table(
    records: Sequence[Record], columns: Columns, tablefmt: str = "simple", text_columns: int = 1
) -> str:
    """Return a table with a row per record; see :func:`format_table`."""
    rows = [[text(record) for text in columns.values()] for record in records]
    return format_table(rows, list(columns), tablefmt, text_columns)


def format_table(
    rows: Sequence[Sequence[str]],
    headers: Sequence[str],
    tablefmt: str = "simple",
    text_columns: int = 1,
) -> str:
    """Return a table whose first ``text_columns`` columns are text, the others numbers.

    Args:
        rows, headers: formatted cells.
        tablefmt: tabulate's.
        text_columns: how many columns are aligned to the left.
    """
    align = ["left"] * text_columns + ["right"] * (len(headers) - text_columns)
    result: str = tabulate(rows, headers, tablefmt=tablefmt, colalign=align, disable_numparse=True)
    return result


def cell(*path: str, form: Callable[[Any], str] = str, missing: str = "") -> Cell:
    """Return what writes a value of a record into a cell.

    Args:
        path: nested keys that lead to the value.
        form: the value to its text.
        missing: the text where a key is missing.
    """

    def text(record: Record) -> str:
        value: Any = record
        for key in path:
            if key not in value:
                return missing
            value = value[key]
        return form(value)

    return text


def size_of(record: Record) -> str:
    """Return height and width of a record's images."""
    return "x".join(map(str, record["size"]))


def precision_of(record: Record) -> str:
    """Return the precision of a record, and whether it was compiled."""
    result: str = record["dtype"] + (", compiled" if record["compiled"] else "")
    return result


def mebibytes(size: float) -> str:
    """Bytes as a number of MiB."""
    return f"{size / 2**20:,.0f}"


# The first columns of what was measured on a workload.
WORKLOAD_COLUMNS: Columns = {
    "config": lambda record: " ".join([record["config"], *record["overrides"]]),
    "size": size_of,
    "precision": precision_of,
}


def part_names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return all keys, in the order in which they first appear; "other" is the last."""
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    return sorted(names, key=lambda name: name == "other")


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Return the device, its name, threads, and versions: what figures have to be compared on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = processor_name()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor_name() -> str:
    """Return the processor as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_line(machine: dict[str, str | int]) -> str:
    """One line on a machine, such as "cpu (NAME), 2 threads, torch 2.5.1"."""
    threads = machine["threads"]
    where = f"{machine['name']}, {threads} thread{'s' if threads != 1 else ''}"
    return f"{machine['device']} ({where}), torch {machine['torch']}"
