"""Parameter names of published DETR checkpoints."""

from __future__ import annotations

from ...checkpoint import NameMap, NamePairs, register_name_map
from ..resnet_name_map import detectron2_resnet_pairs, torchvision_resnet_pairs

_TRANSFORMER: NamePairs = (
    ("input_proj.{p}", "neck.projections.0.{p}"),
    (
        "transformer.encoder.layers.{i}.self_attn.{attention}",
        "encoder.layers.{i}.self_attn.{attention}",
    ),
    ("transformer.encoder.layers.{i}.linear{j}.{p}", "encoder.layers.{i}.ffn.linear{j}.{p}"),
    ("transformer.encoder.layers.{i}.norm{j}.{p}", "encoder.layers.{i}.norm{j}.{p}"),
    (
        "transformer.decoder.layers.{i}.self_attn.{attention}",
        "decoder.layers.{i}.self_attn.{attention}",
    ),
    (
        "transformer.decoder.layers.{i}.multihead_attn.{attention}",
        "decoder.layers.{i}.cross_attn.{attention}",
    ),
    ("transformer.decoder.layers.{i}.linear{j}.{p}", "decoder.layers.{i}.ffn.linear{j}.{p}"),
    ("transformer.decoder.layers.{i}.norm{j}.{p}", "decoder.layers.{i}.norm{j}.{p}"),
    ("transformer.decoder.norm.{p}", "decoder.norm.{p}"),
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
