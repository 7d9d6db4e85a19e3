"""What the published codes spend more than ours on the same result, by formula.

Published costs are counts of the published codes. Where ours reaches the same numbers with fewer
multiply-adds, the difference is added here to what was counted, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from typing import cast

from torch import nn

from ..modeling import DetectionTransformer, FeatureMap, SapDetrDecoder
from ..modeling.decoders.sap_detr import PointCrossAttention, SapDetrDecoderLayer
from .flops import FlopCount, count_detector_flops

SAVED = "saved by reformulation"


@singledispatch
def reformulation_savings(decoder: nn.Module, memory: Sequence[FeatureMap]) -> dict[str, int]:
    """Multiply-adds per image that a decoder saves compared with its published code.

    A method whose decoder computes anything in another way registers its own formula with
    ``@reformulation_savings.register``.

    Args:
        decoder: the decoder.
        memory: what it decodes.

    Returns:
        Name of the decoder's module to what is saved in it; nothing by default.
    """
    return {}


@reformulation_savings.register
def _(decoder: SapDetrDecoder, memory: Sequence[FeatureMap]) -> dict[str, int]:
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
        savings[f"layers.{index}.cross_attn"] = pairs * channels
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
        savings.update(reformulation_savings(decoder, args[0]))

    handle = model.decoder.register_forward_pre_hook(look)
    try:
        executed = count_detector_flops(model, size)
    finally:
        handle.remove()
    modules = dict(executed.modules)
    for name, flops in savings.items():
        name = f"decoder.{name}"
        modules[name] = modules.get(name, 0) + flops
    operators = {**executed.operators, SAVED: sum(savings.values())}
    return executed, replace(executed, modules=modules, operators=operators)
