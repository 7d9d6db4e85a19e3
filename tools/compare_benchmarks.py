#!/usr/bin/env python
"""Compare two files that `sap-detr benchmark --json` wrote: an old and a new one.

    compare_benchmarks.py old.json new.json

The exit status is 2 if they can't be compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sap_detr.analysis.tables import Columns, Record, cell, record_table
from sap_detr.arguments import ArgumentParser

# What is compared of each kind of record: a label and the way to the number. "*" stands for
# every key, "+" for the sum over them.
_FIGURES: dict[str, dict[str, str]] = {
    "params": {"parameters": "total", "trained": "trained"},
    "flops": {
        "FLOPs as published": "published.total",
        "FLOPs of all heads": "all_heads.total",
        "FLOPs of inference": "inference.total",
    },
    "speed": {
        "latency (s)": "inference.median",
        "latency, fastest (s)": "inference.min",
        "latency, {} (s)": "inference.parts.*",
        "images/s": "images_per_second",
        "step (s)": "step.median",
        "step, fastest (s)": "step.min",
        "step, {} (s)": "step.parts.*",
        "inference / body forward": "relative.inference.median",
        "step / body forward+backward": "relative.step.median",
        "rate of inference (FLOP/s)": "roofline.total.rate",
        "waits for the device per step": "host_syncs.+",
    },
    "memory": {
        "inference, model (bytes)": "inference.model",
        "inference, peak (bytes)": "inference.peak",
        "training, model (bytes)": "training.model",
        "training, peak (bytes)": "training.peak",
    },
    "loader": {
        "images/s/core, {}": "readers.*.images_per_second",
        "bytes of an image, {}": "readers.*.bytes",
    },
}
# What records of one file differ in.
_IDENTITY = ("config", "images", "size", "batch", "dtype")
_LOADER_IDENTITY = ("config", "data", "images")
# Of a machine, what makes two files hard to compare, but not meaningless.
_SHOULD_AGREE = ("name", "threads", "torch")


class CompareError(ValueError):
    """Two files can't be compared."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = ArgumentParser("compare_benchmarks.py", __doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    args = parser.parse_args(argv)
    try:
        contents = load_benchmark(args.old), load_benchmark(args.new)
        rows, warnings = compare(*contents, (str(args.old), str(args.new)))
        if args.json is not None:
            args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        if args.markdown is not None:
            args.markdown.write_text(f"{compare_table(rows, 'github')}\n", encoding="utf-8")
    except (CompareError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(compare_table(rows))
    return 0


def load_benchmark(path: Path, kind: str | None = None) -> Record:
    """Read a file that the benchmark wrote.

    Args:
        path: the file.
        kind: the command that must have written it; None for any.

    Raises:
        OSError: if it can't be read.
        CompareError: if it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CompareError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not {"kind", "records"} <= content.keys():
        raise CompareError(f"{path} was not written by sap-detr benchmark --json")
    if kind is not None and content["kind"] != kind:
        written = f"sap-detr benchmark {content['kind']}"
        raise CompareError(f"{path} was written by {written}, not {kind}")
    return content


def compare(
    old: Record, new: Record, names: tuple[str, str] = ("the old file", "the new file")
) -> tuple[list[Record], list[str]]:
    """Compare the records of two files that have the same config, size, batch and precision.

    Overrides may differ, so that two ways to compute the same can be compared.

    Args:
        old, new: contents, see :func:`load_benchmark`.
        names: what messages call them.

    Returns:
        Rows with ``record``, ``figure``, ``old``, ``new`` and ``ratio`` (new / old; None where old
        is 0), and warnings.

    Raises:
        CompareError: if the kinds or the types of the devices differ, or no records belong
            together, or several of a file would be the same one.
    """
    if old["kind"] != new["kind"]:
        raise CompareError(
            f"{names[0]} holds {old['kind']} and {names[1]} {new['kind']}: compare files that the "
            "same command wrote"
        )
    figures = _FIGURES.get(old["kind"])
    if not figures:
        raise CompareError(f"there are no figures of {old['kind']} to compare")
    warnings = _compare_machines(old, new, names)
    before, after = (_by_identity(content, n) for content, n in zip((old, new), names, strict=True))
    if not before.keys() & after.keys():
        raise CompareError(
            f"nothing in common: {names[0]} has {', '.join(before)}; "
            f"{names[1]} has {', '.join(after)}"
        )
    for own, other, name in ((before, after, names[0]), (after, before, names[1])):
        if left_out := [key for key in own if key not in other]:
            warnings.append(f"only in {name}: {', '.join(left_out)}")
    rows = []
    for key in (key for key in before if key in after):
        new_figures = dict(_figures(after[key], figures))
        for figure, a in _figures(before[key], figures):
            if figure in new_figures:
                b = new_figures[figure]
                ratio = b / a if a else None
                rows.append({"record": key, "figure": figure, "old": a, "new": b, "ratio": ratio})
    return rows, warnings


def _compare_machines(old: Record, new: Record, names: tuple[str, str]) -> list[str]:
    machines = [content.get("machine", {}) for content in (old, new)]
    devices = [machine.get("device") for machine in machines]
    if devices[0] != devices[1]:
        raise CompareError(
            f"{names[0]} was measured on {devices[0]} and {names[1]} on {devices[1]}: measure "
            "both on the same device"
        )
    return [
        f"{key} differs: {machines[0][key]} and {machines[1][key]}"
        for key in _SHOULD_AGREE
        if machines[0].get(key) != machines[1].get(key)
    ]


def _by_identity(content: Record, name: str) -> dict[str, Record]:
    identity = _LOADER_IDENTITY if content["kind"] == "loader" else _IDENTITY
    records: dict[str, Record] = {}
    for record in content["records"]:
        key = " ".join(_text(record[part]) for part in identity if part in record)
        if key in records:
            raise CompareError(f"{name} has several records of {key}: compare them one by one")
        records[key] = record
    return records


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _figures(record: Record, wanted: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for label, path in wanted.items():
        for name, number in _numbers_at(record, *path.split(".")):
            yield label.format(name), number


def _numbers_at(
    value: Any, key: str = "", *path: str, name: str = ""
) -> Iterator[tuple[str, float]]:
    """Yield the numbers that a way leads to, with the key that stood at its star."""
    if not key:
        yield name, value
    elif key == "+":
        yield name, sum(value.values())
    elif key == "*":
        for name, inner in value.items():
            yield from _numbers_at(inner, *path, name=name)
    elif key in value:
        yield from _numbers_at(value[key], *path, name=name)


def compare_table(rows: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`compare` returned; ``tablefmt`` is tabulate's."""
    columns: Columns = {
        "record": cell("record"),
        "figure": cell("figure"),
        "old": cell("old", form="{:,.5g}".format),
        "new": cell("new", form="{:,.5g}".format),
        "new / old": lambda row: "" if row["ratio"] is None else f"{row['ratio']:.3f}",
    }
    return record_table(rows, columns, tablefmt, text_columns=2)


if __name__ == "__main__":
    sys.exit(main())
