"""The tables that the benchmark writes into documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from .building import PUBLISHED_NUM_CLASSES, build_without_weights
from .compare import CompareError, load_benchmark
from .growth import (
    GROWTH_NOTE,
    grid_table,
    growth_table,
    peaks_of,
    times_of,
)
from .image_sizes import coco_val2017_sizes
from .machine import machine_line
from .marks import MarkError, marked_blocks, replace_blocks
from .memory import mebibytes
from .parameters import count_parameters
from .published import count_published_flops
from .reference_body import DESCRIPTION
from .report import Record, format_table
from .speed import precision_of, size_of

SIZE = (800, 1066)


@dataclass(frozen=True)
class PublishedCost:
    """A row of the table of costs.

    Attributes:
        config: name of the config.
        parameters, gflops: what the paper says, as it says it; "" where it says nothing.
    """

    config: str
    parameters: str
    gflops: str


# What docs/costs.md lists. A config is added here.
LISTED = (
    PublishedCost("detr/detr_r50_500ep.py", "41M", "86"),
    PublishedCost("detr/detr_dc5_r50_500ep.py", "41M", "187"),
    PublishedCost("sap_detr/sap_detr_r50_50ep.py", "47M", "92"),
    PublishedCost("sap_detr/sap_detr_dc5_r50_50ep.py", "47M", "197"),
    PublishedCost("sap_detr/sap_detr_r101_50ep.py", "67M", "158"),
    PublishedCost("sap_detr/sap_detr_dc5_r101_50ep.py", "67M", "266"),
    PublishedCost("sam_detr/sam_detr_r50_smca_50ep.py", "58M", "100"),
    PublishedCost("sam_detr/sam_detr_dc5_r50_smca_50ep.py", "58M", "210"),
    PublishedCost("sam_detr/sam_detr_ms_r50_smca_50ep.py", "55M", "203"),
)

_COST_NOTE = (
    "GFLOPs are those that are executed, and in brackets those that the published code would "
    "execute. The means are over the first 100 images of COCO val2017, in the order of the "
    "annotation file, as papers have it, and in the order of the ids."
)


_SPEED_NOTE = (
    "Measured by `tools/benchmark.py speed --relative-to-body` on random images. A training step "
    "is forward and backward pass, matching, losses, clipping and optimizer. Units of the body, "
    f"medians over neighbouring measurements, hardly depend on the machine; {DESCRIPTION}"
)


def cost_cells(
    row: PublishedCost, model: nn.Module, sizes: Mapping[str, Sequence[tuple[int, int]]]
) -> tuple[list[str], list[str]]:
    """Return the cells of a config, computed.

    Args:
        row: the config, and what is published about it.
        model: built from it.
        sizes: name to image sizes, each a column of FLOPs.

    Returns:
        Name, parameters, and parameters as published; and a cell of FLOPs for each of ``sizes``.
    """
    count = count_parameters(model)
    unique = dict.fromkeys(size for column in sizes.values() for size in column)
    counts = {size: [c.total for c in count_published_flops(model, size)] for size in unique}
    flops = []
    for column in sizes.values():
        executed, published = np.mean([counts[size] for size in column], axis=0) / 1e9
        flops.append(f"{executed:.1f} ({published:.1f})")
    parameters = f"{count.total:,} ({count.trained:,})"
    return [Path(row.config).stem, parameters, row.parameters], flops


def cost_table() -> str:
    """Return the table of parameters and FLOPs; takes minutes."""
    sizes = {
        f"GFLOPs at {SIZE[0]}x{SIZE[1]}": [SIZE],
        "mean, order of the file": coco_val2017_sizes("file"),
        "mean, order of the ids": coco_val2017_sizes("id"),
    }
    # All of them before any is counted, which takes longer.
    models = [build_without_weights(row.config, PUBLISHED_NUM_CLASSES)[0] for row in LISTED]
    rows = []
    for row, model in zip(LISTED, models, strict=True):
        parameters, flops = cost_cells(row, model, sizes)
        rows.append([*parameters, *flops, row.gflops])
    headers = ["config", "parameters", "published", *sizes, "published"]
    return f"{format_table(rows, headers, 'github')}\n\n{_COST_NOTE}"


def measured_tables(folder: Path) -> str:
    """Return the tables of memory and speed, from all ``memory_*.json`` and ``speed_*.json``.

    Raises:
        CompareError: if there is none, or one of them is something else.
    """
    blocks: list[str] = []
    for kind, (title, table) in _TABLES.items():
        for file in sorted(folder.glob(f"{kind}_*.json")):
            content = load_benchmark(file, kind)
            blocks += [f"{title} on {machine_line(content['machine'])}:", table(content["records"])]
    if not blocks:
        raise CompareError(f"there is no memory_*.json or speed_*.json in {folder}")
    if any(block.startswith("Speed") for block in blocks):
        blocks.append(_SPEED_NOTE)
    return "\n\n".join(blocks)


def _speed_table(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        relative = record.get("relative", {})
        ratios = [
            f"{relative[name]['median']:.2f}" if name in relative else ""
            for name in ("inference", "step")
        ]
        step = f"{record['step']['median'] * 1e3:,.0f}" if "step" in record else ""
        rows.append(
            [
                *_workload(record),
                f"{record['inference']['median'] * 1e3:,.0f}",
                step,
                *ratios,
                f"{record['roofline']['total']['share']:.0%}",
            ]
        )
    headers = [
        *_WORKLOAD,
        "inference, ms",
        "training step, ms",
        "inference / body",
        "step / body",
        "of the rate of a matrix product",
    ]
    return format_table(rows, headers, "pipe", text_columns=2)


def _memory_table(records: Sequence[Record]) -> str:
    rows = [
        [*_workload(r), *(mebibytes(r[mode]["peak"]) for mode in ("inference", "training"))]
        for r in records
    ]
    headers = [*_WORKLOAD, "inference, MiB", "training step, MiB"]
    return format_table(rows, headers, "pipe", text_columns=2)


_TABLES = {
    "memory": ("Largest memory", _memory_table),
    "speed": ("Speed", _speed_table),
}
_WORKLOAD = ["config", "images"]


def _workload(record: Record) -> list[str]:
    images = f"{record['batch']} of {size_of(record)}, {precision_of(record)}"
    return [Path(record["config"]).stem, images]


def growth_tables(folder: Path) -> str:
    """Time and memory at several sizes, from ``sizes_speed.json`` and ``sizes_memory.json``.

    Raises:
        OSError, CompareError: if one of them can't be read.
    """
    speed, memory = (
        load_benchmark(folder / f"sizes_{kind}.json", kind) for kind in ("speed", "memory")
    )
    sides = sorted({record["size"][0] for record in speed["records"]})
    compared = (sides[len(sides) // 2], sides[-1])
    return "\n\n".join(
        [
            f"Inference / training step in ms, on {machine_line(speed['machine'])}:",
            grid_table(speed["records"], size_of, times_of),
            "Largest memory in inference / training in MiB:",
            grid_table(memory["records"], size_of, peaks_of),
            f"Growth from {compared[0]} to {compared[1]} pixels:",
            growth_table(speed["records"], memory["records"], compared),
            GROWTH_NOTE,
        ]
    )


def precision_tables(folder: Path) -> str:
    """Time with other precisions and compiled, from all ``precision_*.json``.

    Raises:
        CompareError: if there is none, or one of them is something else.
    """
    contents = [load_benchmark(file, "speed") for file in sorted(folder.glob("precision_*.json"))]
    if not contents:
        raise CompareError(f"there is no precision_*.json in {folder}")
    records = [record for content in contents for record in content["records"]]
    lines = dict.fromkeys(machine_line(content["machine"]) for content in contents)
    title = f"Inference / training step in ms, on {'; '.join(lines)}:"
    return f"{title}\n\n{grid_table(records, precision_of, times_of)}"


# Name of a block to what writes it, given the folder of measurements.
BLOCKS: dict[str, Callable[[Path], str]] = {
    "measured": measured_tables,
    "growth": growth_tables,
    "precision": precision_tables,
    # The last one: it takes minutes, and the others may find that a file is missing.
    "costs": lambda folder: cost_table(),
}


def known_blocks(text: str) -> list[str]:
    """Names of the blocks of a document.

    Raises:
        MarkError: if its marks are wrong, or name a block that there is not.
    """
    names = list(marked_blocks(text))
    if unknown := [name for name in names if name not in BLOCKS]:
        raise MarkError(f"no block is called {unknown[0]}: there are {', '.join(BLOCKS)}")
    return names


def write_blocks(text: str, folder: Path) -> str:
    """Return a document with its blocks, see :mod:`sap_detr.analysis.marks`, written anew.

    Args:
        text: the document.
        folder: of the ``--json`` files that it shows.

    Raises:
        MarkError: see :func:`known_blocks`.
        OSError, CompareError: if a file of measurements is missing or is something else.
    """
    names = sorted(known_blocks(text), key=list(BLOCKS).index)
    return replace_blocks(text, {name: BLOCKS[name](folder) for name in names})
