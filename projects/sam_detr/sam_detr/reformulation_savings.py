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
from sap_detr.modeling import DetectionTransformer, FeatureMap

from .aligner import NUM_BINS, POINT_DIM, without_pooling
from .decoder import SamDetrDecoder, SamDetrDecoderLayer


@reformulation_savings.register
def _(
    decoder: SamDetrDecoder, memory: Sequence[FeatureMap], model: DetectionTransformer
) -> dict[str, int]:
    savings: dict[str, int] = {}
    width, queries = decoder.embed_dim, decoder.reference_boxes.shape[0]
    bins = queries * NUM_BINS**2
    for index, (level, layer) in enumerate(zip(decoder.layer_levels, decoder.layers, strict=True)):
        height, columns = memory[level].features.shape[-2:]
        cells = height * columns
        points = cast(SamDetrDecoderLayer, layer).aligner.num_heads * queries
        sampled = without_pooling(cells, queries, width)
        pooled = POINT_DIM if sampled else width
        convolved = cells if sampled else bins
        ours = convolved * width * POINT_DIM
        # Weights of the cells in every bin, and the two products with them.
        ours += sum(NUM_BINS * queries * (n // NUM_BINS + 2) * n for n in (height, columns))
        ours += (NUM_BINS * cells + NUM_BINS**2 * height) * queries * pooled
        ours += points * (cells if sampled else NUM_BINS**2) * width
        if sampled:
            ours += points * NUM_BINS * (height + columns)
        savings[f"decoder.layers.{index}.aligner"] = bins * width * POINT_DIM - ours
    # The box and the next reference box come from the same output of a box head.
    for index, head in enumerate(decoder.box_heads[:-1]):
        linears = [cast(nn.Linear, linear) for linear in cast(MLP, head).layers]
        savings[f"decoder.box_heads.{index}"] = queries * sum(x.weight.numel() for x in linears)
    return savings
