"""Parameter names of published SAM-DETR checkpoints."""

from __future__ import annotations

from sap_detr.checkpoint import NameMap, register_name_map
from sap_detr.modeling import torchvision_resnet_pairs, transformer_pairs

_DECODER_LAYER = {
    "sa_qcontent_proj.{p}": "self_attn.query_content.{p}",
    "sa_qpos_proj.{p}": "self_attn.query_positions.0.{p}",
    "sa_kcontent_proj.{p}": "self_attn.key_content.{p}",
    "sa_kpos_proj.{p}": "self_attn.key_positions.0.{p}",
    "sa_v_proj.{p}": "self_attn.value.{p}",
    "point1.0.{p}": "aligner.point_conv.{p}",
    **{f"point2.{2 * k}.{{p}}": f"aligner.point_mlp.{k}.{{p}}" for k in range(4)},
    "attn1.{p}": "aligner.content_scale.{p}",
    "attn2.{p}": "aligner.position_scale.{p}",
    "ca_qcontent_proj.{p}": "cross_attn.query_content.{p}",
    "ca_qpos_sine_proj.layers.{j}.{p}": "cross_attn.query_position.layers.{j}.{p}",
    "ca_kcontent_proj.{p}": "cross_attn.key_content.{p}",
    "ca_kpos_sine_proj.layers.{j}.{p}": "cross_attn.key_position.layers.{j}.{p}",
    "ca_v_proj.{p}": "cross_attn.value.{p}",
    "cross_attn.out_proj.{p}": "cross_attn.out_proj.{p}",
}

SAM_DETR = register_name_map(
    NameMap(
        method="sam_detr",
        pairs=(
            *torchvision_resnet_pairs("backbone.0.body."),
            *transformer_pairs(_DECODER_LAYER),
            ("input_proj.{i}.0.{p}", "neck.projections.{i}.{p}"),
            ("input_proj.{i}.1.{p}", "neck.norms.{i}.{p}"),
            ("query_embed.weight", "decoder.reference_boxes"),
            ("transformer.level_embed", "encoder.level_embed"),
            ("class_embed.{i}.{p}", "decoder.class_heads.{i}.{p}"),
            ("bbox_embed.{i}.layers.{j}.{p}", "decoder.box_heads.{i}.layers.{j}.{p}"),
        ),
        aliases=(
            (
                "transformer.decoder.bbox_embed.{i}.layers.{j}.{p}",
                "bbox_embed.{i}.layers.{j}.{p}",
            ),
        ),
        class_rows=("decoder.class_heads.{i}.{p}",),
    )
)
