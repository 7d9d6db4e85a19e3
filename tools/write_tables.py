#!/usr/bin/env python
"""Write the tables of a document that show costs; takes minutes.

    write_tables.py docs/costs.md

A table stands between <!-- benchmark:NAME:begin --> and <!-- benchmark:NAME:end -->. Parameters and
FLOPs are counted; time and memory come from files that `sap-detr benchmark --json` wrote.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from compare_benchmarks import CompareError, load_benchmark

from sap_detr.analysis import (
    build_without_weights,
    coco_val2017_sizes,
    count_parameters,
    count_published_flops,
)
from sap_detr.analysis.building import PUBLISHED_NUM_CLASSES
from sap_detr.analysis.reference_body import DESCRIPTION
from sap_detr.analysis.tables import (
    Cell,
    Columns,
    Record,
    cell,
    format_table,
    machine_line,
    mebibytes,
    precision_of,
    record_table,
    size_of,
)

BENCHMARKS = Path(__file__).parents[1] / "docs" / "benchmarks"
SIZE = (800, 1066)

# What docs/costs.md lists: a config to parameters and GFLOPs as its paper says them. A config is
# added here.
LISTED = {
    "detr/detr_r50_500ep.py": ("41M", "86"),
    "detr/detr_dc5_r50_500ep.py": ("41M", "187"),
    "sap_detr/sap_detr_r50_50ep.py": ("47M", "92"),
    "sap_detr/sap_detr_dc5_r50_50ep.py": ("47M", "197"),
    "sap_detr/sap_detr_r101_50ep.py": ("67M", "158"),
    "sap_detr/sap_detr_dc5_r101_50ep.py": ("67M", "266"),
    "sam_detr/sam_detr_r50_smca_50ep.py": ("58M", "100"),
    "sam_detr/sam_detr_dc5_r50_smca_50ep.py": ("58M", "210"),
    "sam_detr/sam_detr_ms_r50_smca_50ep.py": ("55M", "203"),
    "dino/dino_r50_4scale_12ep.py": ("47M", "279"),
    "sap_group_detr/sap_group_detr_r50_50ep.py": ("ours", "ours"),
    "sap_dino_detr/sap_dino_detr_r50_4scale_12ep.py": ("ours", "ours"),
}

COST_NOTE = (
    "GFLOPs are those that are executed, and in brackets those that the published code would "
    "execute. The means are over the first 100 images of COCO val2017, in the order of the "
    "annotation file, as papers have it, and in the order of the ids."
)
SPEED_NOTE = (
    "Measured by `sap-detr benchmark speed --relative-to-body` on random images. A training step "
    "is forward and backward pass, matching, losses, clipping and optimizer. Units of the body, "
    f"medians over neighbouring measurements, hardly depend on the machine; {DESCRIPTION} The last "
    "column compares multiply-adds per second of inference with those of a large matrix product; "
    "more than 100% is possible, because convolutions may use instructions that it leaves unused."
)
GROWTH_NOTE = (
    "Exponents say how time, or the memory that came with the run, grew with the number of pixels "
    "between the two sizes: 1 is in proportion, 2 is what attention among all pairs of cells does."
)

_BLOCK = re.compile(
    r"(?P<begin><!-- benchmark:(?P<name>[a-z]+):begin -->\n)(?P<content>.*?)"
    r"(?P<end><!-- benchmark:(?P=name):end -->)",
    re.DOTALL,
)
_MARK = re.compile(r"<!-- *benchmark\b.*")
_PAIR = "one line <!-- benchmark:NAME:begin --> and one <!-- benchmark:NAME:end --> after it"


class MarkError(ValueError):
    """The marks of a document are not pairs, or name no table."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 with one message for what can't be done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="+", type=Path)
    parser.add_argument(
        "--benchmarks",
        type=Path,
        default=BENCHMARKS,
        metavar="FOLDER",
        help="of the --json files of speed and memory that it shows (default: docs/benchmarks)",
    )
    args = parser.parse_args(argv)
    try:
        texts = {file: file.read_text(encoding="utf-8") for file in args.file}
        # All documents before the first table, which takes minutes.
        for file, text in texts.items():
            marked_blocks(text, str(file))
        written = {file: write_blocks(text, args.benchmarks) for file, text in texts.items()}
    except (CompareError, MarkError, OSError) as error:
        print(f"write_tables: {error}", file=sys.stderr)
        return 2
    for file, text in written.items():
        file.write_text(text, encoding="utf-8")
        print(f"wrote the tables of {file}")
    return 0


def marked_blocks(text: str, where: str = "the document") -> dict[str, str]:
    """Return the name of each block of a document, and what stands in it.

    Args:
        text: the document.
        where: what messages call it.

    Raises:
        MarkError: if there is none, if marks are not pairs, or a name comes twice or is unknown.
    """
    if stray := _MARK.search(_BLOCK.sub(lambda block: block["content"], text)):
        raise MarkError(f"{where}: {stray[0]} is not in a pair: there must be {_PAIR}")
    found = list(_BLOCK.finditer(text))
    blocks = {block["name"]: block["content"].strip("\n") for block in found}
    if not found:
        raise MarkError(f"{where} shows no table: there must be {_PAIR}")
    if len(blocks) < len(found):
        raise MarkError(f"{where} has a block twice: of each name there must be {_PAIR}")
    if unknown := blocks.keys() - TABLES.keys():
        raise MarkError(
            f"{where}: no block is called {min(unknown)}: there are {', '.join(TABLES)}"
        )
    return blocks


def write_blocks(text: str, folder: Path) -> str:
    """Return a document with its blocks written anew.

    Args:
        text: the document.
        folder: of the ``--json`` files that it shows.

    Raises:
        MarkError: see :func:`marked_blocks`.
        OSError, CompareError: if a file of measurements is missing or is something else.
    """
    names = sorted(marked_blocks(text), key=list(TABLES).index)
    tables = {name: TABLES[name](folder) for name in names}
    return _BLOCK.sub(lambda b: f"{b['begin']}\n{tables[b['name']]}\n\n{b['end']}", text)


def cost_row(config: str, sizes: Sequence[Sequence[tuple[int, int]]]) -> list[str]:
    """Return a row of the table of costs.

    Args:
        config: one of ``LISTED``.
        sizes: of images, (height, width) in pixels; FLOPs are means over each list.
    """
    parameters, gflops = LISTED[config]
    model, _ = build_without_weights(config, PUBLISHED_NUM_CLASSES)
    count = count_parameters(model)
    unique = dict.fromkeys(size for column in sizes for size in column)
    counts = {size: [c.total for c in count_published_flops(model, size)] for size in unique}
    means = [np.mean([counts[size] for size in column], axis=0) / 1e9 for column in sizes]
    return [
        Path(config).stem,
        f"{count.total:,} ({count.trained:,})",
        parameters,
        *(f"{executed:.1f} ({published:.1f})" for executed, published in means),
        gflops,
    ]


def cost_table() -> str:
    """Return the table of parameters and FLOPs; takes minutes."""
    sizes = {
        f"GFLOPs at {SIZE[0]}x{SIZE[1]}": [SIZE],
        "mean, order of the file": coco_val2017_sizes("file"),
        "mean, order of the ids": coco_val2017_sizes("id"),
    }
    rows = [cost_row(config, list(sizes.values())) for config in LISTED]
    headers = ["config", "parameters", "published", *sizes, "published"]
    return f"{format_table(rows, headers, 'github')}\n\n{COST_NOTE}"


def measured_tables(folder: Path) -> str:
    """Return the tables of memory and speed, from all ``memory_*.json`` and ``speed_*.json``.

    Raises:
        CompareError: if there is none, or one of them is something else.
    """
    blocks = []
    for kind, title, columns in (
        ("memory", "Largest memory", _MEMORY_COLUMNS),
        ("speed", "Speed", _SPEED_COLUMNS),
    ):
        for file in sorted(folder.glob(f"{kind}_*.json")):
            content = load_benchmark(file, kind)
            table = record_table(content["records"], columns, "pipe", text_columns=2)
            blocks += [f"{title} on {machine_line(content['machine'])}:", table]
    if not blocks:
        raise CompareError(f"there is no memory_*.json or speed_*.json in {folder}")
    if any(block.startswith("Speed") for block in blocks):
        blocks.append(SPEED_NOTE)
    return "\n\n".join(blocks)


def _milliseconds(name: str) -> Cell:
    return cell(name, "median", form=lambda seconds: f"{seconds * 1e3:,.0f}")


_WORKLOAD_COLUMNS: Columns = {
    "config": lambda record: Path(record["config"]).stem,
    "images": lambda record: f"{record['batch']} of {size_of(record)}, {precision_of(record)}",
}
_MEMORY_COLUMNS: Columns = {
    **_WORKLOAD_COLUMNS,
    "inference, MiB": cell("inference", "peak", form=mebibytes),
    "training step, MiB": cell("training", "peak", form=mebibytes),
}
_SPEED_COLUMNS: Columns = {
    **_WORKLOAD_COLUMNS,
    "inference, ms": _milliseconds("inference"),
    "training step, ms": _milliseconds("step"),
    "inference / body": cell("relative", "inference", "median", form="{:.2f}".format),
    "step / body": cell("relative", "step", "median", form="{:.2f}".format),
    "of the rate of a matrix product": cell("roofline", "total", "share", form="{:.0%}".format),
}


def growth_tables(folder: Path) -> str:
    """Return time and memory at several sizes, from ``sizes_speed.json`` and ``sizes_memory.json``.

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
    """Return time with other precisions and compiled, from all ``precision_*.json``.

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


def grid_table(records: Sequence[Record], column: Cell, text: Cell) -> str:
    """Return a row per config, and a column per something else.

    Args:
        records: of speed or memory.
        column: the header of the column that a record belongs to.
        text: what stands there.

    Raises:
        CompareError: if two records belong to one cell.
    """
    columns = list(dict.fromkeys(column(record) for record in records))
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        row = rows.setdefault(Path(record["config"]).stem, {})
        if column(record) in row:
            raise CompareError(f"two records of {record['config']}, {column(record)}")
        row[column(record)] = text(record)
    cells = [[name, *(row.get(c, "") for c in columns)] for name, row in rows.items()]
    return format_table(cells, ["config", *columns], "pipe")


def times_of(record: Record) -> str:
    """Milliseconds of inference and of a training step."""
    return " / ".join(filter(None, (_milliseconds(name)(record) for name in ("inference", "step"))))


def peaks_of(record: Record) -> str:
    """MiB of inference and of training steps."""
    return " / ".join(mebibytes(record[mode]["peak"]) for mode in ("inference", "training"))


def growth_table(speed: Sequence[Record], memory: Sequence[Record], sizes: tuple[int, int]) -> str:
    """Return exponents of growth between two sizes of square images.

    Args:
        speed, memory: records of the same configs at several sizes.
        sizes: sides in pixels, the smaller first.

    Raises:
        CompareError: if a config was not measured at both.
    """
    pixels = [side * side for side in sizes]
    rows = []
    for config in dict.fromkeys(record["config"] for record in speed):
        figures = []
        for side in sizes:
            timed, sized = (_record_of(records, config, side) for records in (speed, memory))
            parts = timed["inference"]["parts"]
            figures.append(
                {
                    "inference": timed["inference"]["median"],
                    **{name: parts[name] for name in ("backbone", "encoder", "decoder")},
                    "training step": timed["step"]["median"],
                    "its memory": sized["training"]["peak"] - sized["training"]["model"],
                }
            )
        small, large = figures
        cells = [f"{exponent(pixels, [small[name], large[name]]):.2f}" for name in small]
        rows.append([Path(config).stem, *cells])
    return format_table(rows, ["config", *small], "pipe")


def _record_of(records: Sequence[Record], config: str, side: int) -> Record:
    for record in records:
        if record["config"] == config and record["size"] == [side, side]:
            return record
    raise CompareError(f"{config} was not measured at {side}x{side}")


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the e with values[1] / values[0] = (sizes[1] / sizes[0]) ** e."""
    return math.log(values[1] / values[0]) / math.log(sizes[1] / sizes[0])


# Name of a block to what writes it, given the folder of measurements.
TABLES: dict[str, Callable[[Path], str]] = {
    "measured": measured_tables,
    "growth": growth_tables,
    "precision": precision_tables,
    # The last one: it takes minutes, and the others may find that a file is missing.
    "costs": lambda folder: cost_table(),
}


if __name__ == "__main__":
    sys.exit(main())
