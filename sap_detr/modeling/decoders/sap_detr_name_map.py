"""Parameter names of published SAP-DETR checkpoints."""

from __future__ import annotations

from ...checkpoint import NameMap, NamePairs, register_name_map
from ..resnet_name_map import torchvision_resnet_pairs
from .detr_name_map import transformer_pairs

_SELF_ATTENTION = {
    "sa_qcontent_proj": "query_content",
    "sa_point_qpos_proj": "query_positions.0",
    "sa_bbox_qpos_proj": "query_positions.1",
    "sa_kcontent_proj": "key_content",
    "sa_point_kpos_proj": "key_positions.0",
    "sa_bbox_kpos_proj": "key_positions.1",
    "sa_v_proj": "value",
}
_CROSS_ATTENTION = {
    "ca_qcontent_proj": "query_content",
    "ca_qpos_sine_proj": "query_point_sine",
    "ca_bbox_qpos_sine_proj": "query_sides_sine",
    "ca_kcontent_proj": "key_content",
    "ca_kpos_proj": "key_position",
    "ca_v_proj": "value",
    "cross_attn.out_proj": "out_proj",
    "gaussian_proj.layers.{j}": "gaussian_head.layers.{j}",
}
_DECODER_LAYER = {
    f"{theirs}.{{p}}": f"{attention}.{ours}.{{p}}"
    for attention, names in (("self_attn", _SELF_ATTENTION), ("cross_attn", _CROSS_ATTENTION))
    for theirs, ours in names.items()
}
_PAIRS: NamePairs = (
    *torchvision_resnet_pairs("backbone.0.body."),
    *transformer_pairs(_DECODER_LAYER),
    ("input_proj.{p}", "neck.projections.0.{p}"),
    (
        "transformer.encoder.query_scales.{i}.layers.{j}.{p}",
        "encoder.layers.{i}.position_scale.layers.{j}.{p}",
    ),
    ("transformer.decoder.layers.0.ca_point_qpos_proj.{p}", "decoder.first_query_point.{p}"),
    ("transformer.decoder.layers.0.ca_bbox_qpos_proj.{p}", "decoder.first_query_sides.{p}"),
    ("transformer.decoder.query_scale.layers.{i}.{p}", "decoder.sine_scale.layers.{i}.{p}"),
    *(
        (f"transformer.point_transfer.{3 * i + j}.{{p}}", f"decoder.content_init.{part}.{i}.{{p}}")
        for i in range(3)
        for j, part in enumerate(("convs", "norms"))
    ),
    ("refpoint_embed.weight", "decoder.reference_points"),
    ("refbbox_embed.weight", "decoder.reference_sides"),
    ("ref_point_head.layers.{i}.{p}", "decoder.point_embed.layers.{i}.{p}"),
    ("ref_bbox_head.layers.{i}.{p}", "decoder.sides_embed.layers.{i}.{p}"),
    ("point_embed.{i}.layers.{j}.{p}", "decoder.point_heads.{i}.layers.{j}.{p}"),
    ("bbox_embed.{i}.layers.{j}.{p}", "decoder.sides_heads.{i}.layers.{j}.{p}"),
    ("class_embed.{i}.layers.{j}.{p}", "decoder.class_heads.{i}.layers.{j}.{p}"),
    ("obj_embed.{p}", "decoder.object_head.{p}"),
)

SAP_DETR = register_name_map(
    NameMap(
        method="sap_detr",
        pairs=_PAIRS,
        aliases=(
            *(
                (f"transformer.decoder.{name}", name)
                for name in (
                    "ref_point_head.layers.{i}.{p}",
                    "ref_bbox_head.layers.{i}.{p}",
                    "point_embed.{i}.layers.{j}.{p}",
                    "bbox_embed.{i}.layers.{j}.{p}",
                )
            ),
            # The second to the last layer share a class head.
            *(
                (f"class_embed.{layer}.layers.{{j}}.{{p}}", "class_embed.1.layers.{j}.{p}")
                for layer in range(2, 6)
            ),
        ),
        class_rows=("decoder.class_heads.{i}.layers.2.{p}",),
        # Of SAP-Group-DETR.
        training_only=("decoder.group_points", "decoder.group_sides"),
    )
)
