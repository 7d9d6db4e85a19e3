"""Parameter names of published DINO checkpoints."""

from __future__ import annotations

from sap_detr.checkpoint import NameMap, register_name_map
from sap_detr.modeling import torchvision_resnet_pairs

_DEFORMABLE = {
    f"{name}.{{p}}": f"{name}.{{p}}"
    for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
}
_ENCODER_LAYER = {
    **{f"self_attn.{theirs}": f"self_attn.{ours}" for theirs, ours in _DEFORMABLE.items()},
    "linear{j}.{p}": "ffn.linear{j}.{p}",
    "norm{j}.{p}": "norm{j}.{p}",
}
_DECODER_LAYER = {
    "self_attn.{attention}": "self_attn.{attention}",
    **{f"cross_attn.{theirs}": f"cross_attn.{ours}" for theirs, ours in _DEFORMABLE.items()},
    "linear{j}.{p}": "ffn.linear{j}.{p}",
    # Numbered by age there, in order here.
    "norm2.{p}": "norm1.{p}",
    "norm1.{p}": "norm2.{p}",
    "norm3.{p}": "norm3.{p}",
}
_NAMES = {
    "input_proj.{i}.0.{p}": "neck.projections.{i}.{p}",
    "input_proj.{i}.1.{p}": "neck.norms.{i}.{p}",
    "transformer.level_embed": "encoder.level_embed",
    **{
        f"transformer.{part}.layers.{{i}}.{theirs}": f"{part}.layers.{{i}}.{ours}"
        for part, names in (("encoder", _ENCODER_LAYER), ("decoder", _DECODER_LAYER))
        for theirs, ours in names.items()
    },
    "transformer.decoder.ref_point_head.layers.{i}.{p}": "decoder.position_head.layers.{i}.{p}",
    "transformer.decoder.norm.{p}": "decoder.norm.{p}",
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
        pairs=(*torchvision_resnet_pairs("backbone.0.body."), *_NAMES.items()),
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
