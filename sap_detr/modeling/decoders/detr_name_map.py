"""Parameter names of published DETR checkpoints, and what those of its successors share."""

from __future__ import annotations

from collections.abc import Mapping

from ...checkpoint import NameMap, NamePairs, register_name_map
from ..resnet_name_map import detectron2_resnet_pairs, torchvision_resnet_pairs

_LAYER = {
    "self_attn.{attention}": "self_attn.{attention}",
    "self_attn.{deformable}": "self_attn.{deformable}",
    "linear{j}.{p}": "ffn.linear{j}.{p}",
    "norm{j}.{p}": "norm{j}.{p}",
}


def transformer_pairs(decoder_layer: Mapping[str, str]) -> NamePairs:
    """Return the names in encoder and decoder of a method whose code is made from DETR's.

    Args:
        decoder_layer: names in a layer, published to ours, besides those that all have.
    """
    layers = (
        (f"transformer.{part}.layers.{{i}}.{theirs}", f"{part}.layers.{{i}}.{ours}")
        for part, names in (("encoder", {}), ("decoder", decoder_layer))
        for theirs, ours in {**names, **_LAYER}.items()
    )
    norm = ("transformer.decoder.norm.{p}", "decoder.norm.{p}")
    return (*layers, norm)


_TRANSFORMER: NamePairs = (
    *transformer_pairs({"multihead_attn.{attention}": "cross_attn.{attention}"}),
    ("input_proj.{p}", "neck.projections.0.{p}"),
    ("query_embed.weight", "decoder.query_embed.weight"),
    ("class_embed.{p}", "decoder.class_head.{p}"),
    ("bbox_embed.layers.{i}.{p}", "decoder.box_head.layers.{i}.{p}"),
)
CLASS_ROWS = ("decoder.class_head.{p}",)

DETR = register_name_map(
    NameMap(
        method="detr",
        pairs=(*torchvision_resnet_pairs("backbone.0.body."), *_TRANSFORMER),
        class_rows=CLASS_ROWS,
        no_object_row=True,
    )
)

# The published repository's own wrapper for Detectron2.
DETECTRON2_DETR = register_name_map(
    NameMap(
        method="detectron2_detr",
        pairs=(
            *detectron2_resnet_pairs("detr.backbone.0.backbone."),
            *(("detr." + theirs, ours) for theirs, ours in _TRANSFORMER),
        ),
        dropped=("criterion.{any}",),
        class_rows=CLASS_ROWS,
        no_object_row=True,
    )
)
