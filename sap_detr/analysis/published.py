"""Multiply-adds of a model as executed, and as its published code spends them, by formula.

Published costs are counts of the published codes. Where ours reaches the same numbers with fewer
multiply-adds, the difference is added here to what was counted, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import cast

from torch import nn

from ..modeling import DetectionTransformer, FeatureMap, SapDetrDecoder
from ..modeling.decoders.point_attention import PointCrossAttention
from ..modeling.decoders.sap_detr import SapDetrDecoderLayer
from .flops import FlopCount, count_detector_flops, mean_flops
from .tables import Cell, Columns, Record, cell, part_names, record_table

CONVENTION = (
    "1 FLOP = 1 multiply-add of convolutions, matrix products and attention, and 5 per element of "
    "layer and group normalisation; one image without padding. Not counted: elementwise "
    "arithmetic, softmax, pooling, batch normalisation. all heads: heads of all decoder layers, as "
    "in training; inference: heads of the last layer only; as published: all heads, with what "
    "reformulations save added back."
)


@singledispatch
def reformulation_savings(
    decoder: nn.Module, memory: Sequence[FeatureMap], model: DetectionTransformer
) -> dict[str, int]:
    """Multiply-adds per image that a model saves compared with its published code.

    A method that computes anything in another way registers its own formula, by its decoder, with
    ``@reformulation_savings.register``.

    Args:
        decoder: the decoder.
        memory: what it decodes.
        model: whose decoder it is.

    Returns:
        Name of the model's module to what is saved in it; nothing by default.
    """
    return {}


@reformulation_savings.register
def _(
    decoder: SapDetrDecoder, memory: Sequence[FeatureMap], model: DetectionTransformer
) -> dict[str, int]:
    # Published: queries [content, point, sides] by keys [content, position, position], 3D channels
    # over all heads. Ours adds up point and sides first, 2D channels. A folded Gaussian, which was
    # elementwise, takes four channels per head of it back.
    (level,) = memory
    height, width = level.features.shape[-2:]
    pairs = decoder.reference_points.shape[0] * height * width
    savings = {}
    for index, layer in enumerate(decoder.layers):
        attention: PointCrossAttention = cast(SapDetrDecoderLayer, layer).cross_attn
        channels = attention.key_content.out_features
        if attention.gaussian_head is not None and attention.gaussian_form == "folded":
            channels -= 4 * attention.num_heads
        savings[f"decoder.layers.{index}.cross_attn"] = pairs * channels
    return savings


def count_published_flops(model: nn.Module, size: tuple[int, int]) -> tuple[FlopCount, FlopCount]:
    """Count the multiply-adds of all layers for one image: as executed, and as published.

    Args:
        model, size: see :func:`count_detector_flops`.
    """
    if not isinstance(model, DetectionTransformer):
        executed = count_detector_flops(model, size)
        return executed, executed
    savings: dict[str, int] = {}

    def look(decoder: nn.Module, args: tuple[Sequence[FeatureMap], ...]) -> None:
        savings.update(reformulation_savings(decoder, args[0], model))

    handle = model.decoder.register_forward_pre_hook(look)
    try:
        executed = count_detector_flops(model, size)
    finally:
        handle.remove()
    modules = dict(executed.modules)
    for name, flops in savings.items():
        modules[name] = modules.get(name, 0) + flops
    return executed, replace(executed, modules=modules)


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
        record: Record = {"images": name}
        for kind in ("published", "all_heads", "inference"):
            mean = mean_flops([counts[size][kind] for size in sizes])
            record[kind] = {"total": mean.total, "parts": mean.by_part(depth)}
            if kind == "all_heads":
                record["uncounted"] = dict(mean.uncounted)
        records.append(record)
    return records


def flop_report(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`flop_records` returned, with ``config`` and ``classes`` added.

    Numbers are in units of 1e9. Parts are those of "all heads", as executed. What was neither
    counted nor free is listed by config.
    """
    columns: Columns = {
        "config": cell("config"),
        "images": cell("images"),
        "classes": lambda record: str(record["classes"] or ""),
        "as published": _giga("published", "total"),
        "all heads": _giga("all_heads", "total"),
        "inference": _giga("inference", "total"),
    }
    names = part_names(record["all_heads"]["parts"] for record in records)
    parts = {name or "(own)": _giga("all_heads", "parts", name) for name in names}
    uncounted = {
        f"{record['config']}: not counted: "
        + ", ".join(f"{name} ({calls:g} calls)" for name, calls in record["uncounted"].items())
        for record in records
        if record["uncounted"]
    }
    table = record_table(records, {**columns, **parts}, tablefmt, text_columns=2)
    blocks = [table, "\n".join(sorted(uncounted)), f"GFLOPs. {CONVENTION}"]
    return "\n\n".join(filter(None, blocks))


def _giga(*path: str) -> Cell:
    return cell(*path, form=lambda flops: f"{flops / 1e9:.2f}", missing="0.00")
