"""What the published SAM-DETR spends more, or less, than ours on the same result.

Published counts have one product for the points of all bins, eleven evaluations of the box heads,
and neither RoIAlign nor sampling, which are no products there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from sap_detr.analysis import reformulation_savings
from sap_detr.layers import MLP
from sap_detr.modeling import FeatureMap

from .aligner import NUM_BINS, POINT_DIM, points_before_pooling
from .decoder import SamDetrDecoder, SamDetrDecoderLayer


@reformulation_savings.register
def _(decoder: SamDetrDecoder, memory: Sequence[FeatureMap]) -> dict[str, int]:
    savings: dict[str, int] = {}
    width, queries = decoder.embed_dim, decoder.reference_boxes.shape[0]
    bins = queries * NUM_BINS**2
    for index, (level, layer) in enumerate(zip(decoder.layer_levels, decoder.layers, strict=True)):
        height, columns = memory[level].features.shape[-2:]
        cells = height * columns
        published = bins * width * POINT_DIM
        pooled, ours = width, published
        if points_before_pooling(cells, queries, width):
            pooled, ours = width + POINT_DIM, cells * width * POINT_DIM
        strips = NUM_BINS * queries * cells * pooled
        pooling = strips + NUM_BINS**2 * queries * height * pooled
        weights = sum(bins // NUM_BINS * (n // NUM_BINS + 2) * n for n in (height, columns))
        sampling = cast(SamDetrDecoderLayer, layer).aligner.num_heads * bins * width
        savings[f"layers.{index}.aligner"] = published - (ours + pooling + weights + sampling)
    # The box and the next reference box come from the same output of a box head.
    for index, head in enumerate(decoder.box_heads[:-1]):
        linears = [cast(nn.Linear, linear) for linear in cast(MLP, head).layers]
        savings[f"box_heads.{index}"] = queries * sum(x.weight.numel() for x in linears)
    return savings
