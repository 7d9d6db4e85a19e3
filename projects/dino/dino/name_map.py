"""Parameter names of published DINO checkpoints."""

from __future__ import annotations

from sap_detr.checkpoint import NameMap, register_name_map
from sap_detr.modeling import torchvision_resnet_pairs, transformer_pairs

_DECODER_LAYER = {
    "cross_attn.{deformable}": "cross_attn.{deformable}",
    # Numbered by age there, in order here.
    "norm2.{p}": "norm1.{p}",
    "norm1.{p}": "norm2.{p}",
}
_NAMES = {
    "input_proj.{i}.0.{p}": "neck.projections.{i}.{p}",
    "input_proj.{i}.1.{p}": "neck.norms.{i}.{p}",
    "transformer.level_embed": "encoder.level_embed",
    "transformer.decoder.ref_point_head.layers.{i}.{p}": "decoder.position_head.layers.{i}.{p}",
    "transformer.enc_output.{p}": "decoder.memory_proj.{p}",
    "transformer.enc_output_norm.{p}": "decoder.memory_norm.{p}",
    "transformer.tgt_embed.weight": "decoder.content_embed.weight",
    "transformer.enc_out_class_embed.{p}": "decoder.proposal_class_head.{p}",
    "transformer.enc_out_bbox_embed.layers.{i}.{p}": "decoder.proposal_box_head.layers.{i}.{p}",
    "label_enc.weight": "decoder.label_embed.weight",
    "class_embed.0.{p}": "decoder.class_head.{p}",
    "bbox_embed.0.layers.{i}.{p}": "decoder.box_head.layers.{i}.{p}",
}

DINO = register_name_map(
    NameMap(
        method="dino",
        pairs=(
            *torchvision_resnet_pairs("backbone.0.body."),
            *transformer_pairs(_DECODER_LAYER),
            *_NAMES.items(),
        ),
        # All layers share their heads, which the decoder has as well.
        aliases=tuple(
            (f"{prefix}{name}.{layer}.{rest}", f"{name}.0.{rest}")
            for name, rest in (("class_embed", "{p}"), ("bbox_embed", "layers.{j}.{p}"))
            for prefix in ("", "transformer.decoder.")
            for layer in range(6)
            if prefix or layer
        ),
        class_rows=(
            "decoder.class_head.{p}",
            "decoder.proposal_class_head.{p}",
            "decoder.label_embed.weight",
        ),
    )
)
