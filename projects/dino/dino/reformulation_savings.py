"""What the published DINO spends more than ours on the same result.

Its count has the box head of the first stage on all tokens, where ours has it on those that are
selected, and sampling at 4 per number that is read, as fvcore counts ``grid_sample``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from sap_detr.analysis import reformulation_savings
from sap_detr.layers import DeformableAttention
from sap_detr.modeling import DetectionTransformer, DinoDecoder, FeatureMap


@reformulation_savings.register
def _(
    decoder: DinoDecoder, memory: Sequence[FeatureMap], model: DetectionTransformer
) -> dict[str, int]:
    tokens = sum(level.features.shape[-2:].numel() for level in memory)
    head = decoder.proposal_box_head
    matrices = sum(cast(nn.Linear, layer).weight.numel() for layer in head.layers)
    savings = {"decoder.proposal_box_head": (tokens - decoder.num_queries) * matrices}
    for name, module in model.named_modules():
        if isinstance(module, DeformableAttention):
            queries = tokens if name.startswith("encoder.") else decoder.num_queries
            samples = module.num_levels * module.num_points
            savings[name] = 4 * queries * samples * decoder.embed_dim
    return savings
