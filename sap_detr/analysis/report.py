"""Tables of parameters and FLOPs of several configs, for the screen, Markdown and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils.registry import locate
from tabulate import tabulate
from torch import nn

from ..config import ConfigError, load_config
from ..modeling import DetectionTransformer
from .flops import count_detector_flops, mean_flops
from .parameters import count_parameters, count_parameters_by_part
from .published import count_published_flops

# The published class heads have a row for every COCO category id up to the largest.
PUBLISHED_NUM_CLASSES = 91

CONVENTION = (
    "1 FLOP = 1 multiply-add of convolutions, matrix products and attention, and 5 per element of "
    "layer and group normalisation; one image without padding. Not counted: elementwise "
    "arithmetic, softmax, pooling, batch normalisation. all heads: heads of all decoder layers, as "
    "in training; inference: heads of the last layer only; as published: all heads, with what "
    "reformulations save added back."
)

Record = dict[str, Any]


def build_without_weights(
    config: str, num_classes: int | None = None, overrides: Sequence[str] = ()
) -> tuple[nn.Module, int | None]:
    """Builds the model of a config for counting: on the meta device, so without any memory.

    A model other than :class:`DetectionTransformer` is built on the CPU, because what it computes
    may depend on data.

    Args:
        config: a LazyConfig file or a zoo name.
        num_classes: number of classes; by default the config's own, or 91 where the config takes it
            from its data set.
        overrides: changes as ``key.path=value``.

    Returns:
        The model in evaluation mode, and its number of classes if the config says it.

    Raises:
        FileNotFoundError: if there is no such config.
        ConfigError: if an override makes no sense, or ``num_classes`` is given and the config's
            model has no such key.
    """
    cfg = load_config(config, overrides)
    if "num_classes" in cfg.model:
        if num_classes is not None or cfg.model.num_classes is None:
            cfg.model.num_classes = num_classes or PUBLISHED_NUM_CLASSES
        num_classes = cfg.model.num_classes
    elif num_classes is not None:
        raise ConfigError(f"{config} has no model.num_classes to set; leave the number out")
    target = cfg.model["_target_"]
    target = locate(target) if isinstance(target, str) else target
    ours = isinstance(target, type) and issubclass(target, DetectionTransformer)
    with torch.device("meta" if ours else "cpu"):
        return instantiate(cfg.model).eval(), num_classes


def parameter_record(
    config: str, num_classes: int | None = None, overrides: Sequence[str] = (), depth: int = 1
) -> Record:
    """Counts the parameters of a config; see :func:`build_without_weights` for arguments.

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
    """Counts the multiply-adds of a model, as means over sets of images.

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
    """Formats what :func:`parameter_record` returned; ``tablefmt`` is tabulate's."""
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
    return _table(rows, headers, tablefmt, text_columns=1)


def flop_table(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Formats what :func:`flop_records` returned, with ``config`` and ``classes`` added.

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
    return _table(rows, headers, tablefmt, text_columns=2)


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


def _table(rows: list[list[str]], headers: list[str], tablefmt: str, text_columns: int) -> str:
    align = ["left"] * text_columns + ["right"] * (len(headers) - text_columns)
    return tabulate(rows, headers, tablefmt=tablefmt, colalign=align, disable_numparse=True)
