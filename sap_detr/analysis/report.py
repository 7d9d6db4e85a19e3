"""Tables of parameters and FLOPs of several configs, for the screen, Markdown and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate
from torch import nn

from .building import build_without_weights
from .flops import count_detector_flops, mean_flops
from .parameters import count_parameters, count_parameters_by_part
from .published import count_published_flops

CONVENTION = (
    "1 FLOP = 1 multiply-add of convolutions, matrix products and attention, and 5 per element of "
    "layer and group normalisation; one image without padding. Not counted: elementwise "
    "arithmetic, softmax, pooling, batch normalisation. all heads: heads of all decoder layers, as "
    "in training; inference: heads of the last layer only; as published: all heads, with what "
    "reformulations save added back."
)

Record = dict[str, Any]


def parameter_record(
    config: str, num_classes: int | None = None, overrides: Sequence[str] = (), depth: int = 1
) -> Record:
    """Count the parameters of a config; see :func:`build_without_weights` for arguments.

    Returns:
        ``config``, ``classes``, ``total``, ``trained``, and ``parts`` with both for each part down
        to ``depth``.
    """
    model, classes = build_without_weights(config, num_classes, overrides)
    parts = count_parameters_by_part(model, depth)
    return {
        "config": config,
        "overrides": list(overrides),
        "classes": classes,
        **asdict(count_parameters(model)),
        "parts": {name: asdict(count) for name, count in parts.items()},
    }


def flop_records(
    model: nn.Module, images: Mapping[str, Sequence[tuple[int, int]]], depth: int = 1
) -> list[Record]:
    """Count the multiply-adds of a model, as means over sets of images.

    Args:
        model: see :func:`build_without_weights`.
        images: name of a set to the (height, width) in pixels of its images, resized. Every size is
            computed once.
        depth: of the parts.

    Returns:
        For each set ``images``, its name; ``published``, ``all_heads`` and ``inference``, each with
        ``total`` and ``parts`` in multiply-adds; and ``uncounted``: name to calls per image, of
        operators that are neither counted nor free by convention.
    """
    counts = {}
    for size in dict.fromkeys(size for sizes in images.values() for size in sizes):
        executed, as_published = count_published_flops(model, size)
        counts[size] = {
            "published": as_published,
            "all_heads": executed,
            "inference": count_detector_flops(model, size, all_layers=False),
        }
    records = []
    for name, sizes in images.items():
        times = Counter(sizes)
        means = {
            kind: mean_flops((counts[size][kind], number) for size, number in times.items())
            for kind in ("published", "all_heads", "inference")
        }
        totals = {
            kind: {"total": mean.total, "parts": mean.by_part(depth)}
            for kind, mean in means.items()
        }
        uncounted = dict(means["all_heads"].uncounted)
        records.append({"images": name, **totals, "uncounted": uncounted})
    return records


def parameter_table(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`parameter_record` returned; ``tablefmt`` is tabulate's."""
    parts = _names(record["parts"] for record in records)
    rows = [
        [
            record["config"],
            _optional(record["classes"]),
            f"{record['total']:,}",
            f"{record['trained']:,}",
            *(f"{record['parts'].get(part, {'total': 0})['total']:,}" for part in parts),
        ]
        for record in records
    ]
    headers = ["config", "classes", "parameters", "trained", *(part or "(own)" for part in parts)]
    return format_table(rows, headers, tablefmt, text_columns=1)


def flop_table(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`flop_records` returned, with ``config`` and ``classes`` added.

    Numbers are in units of 1e9. Parts are those of "all heads", as executed.
    """
    parts = _names(record["all_heads"]["parts"] for record in records)
    rows = [
        [
            record["config"],
            record["images"],
            _optional(record["classes"]),
            *(_giga(record[kind]["total"]) for kind in ("published", "all_heads", "inference")),
            *(_giga(record["all_heads"]["parts"].get(part, 0)) for part in parts),
        ]
        for record in records
    ]
    kinds = ["as published", "all heads", "inference"]
    headers = ["config", "images", "classes", *kinds, *(part or "(own)" for part in parts)]
    return format_table(rows, headers, tablefmt, text_columns=2)


def uncounted_note(records: Sequence[Record]) -> str:
    """One line per config on operators that were neither counted nor free; "" if there are none."""
    lines = {
        f"{record['config']}: not counted: "
        + ", ".join(f"{name} ({calls:g} calls)" for name, calls in record["uncounted"].items())
        for record in records
        if record["uncounted"]
    }
    return "\n".join(sorted(lines))


def _names(mappings: Any) -> list[str]:
    """All keys, in the order in which they first appear."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _optional(value: int | None) -> str:
    return "" if value is None else str(value)


def _giga(value: float) -> str:
    return f"{value / 1e9:.2f}"


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
