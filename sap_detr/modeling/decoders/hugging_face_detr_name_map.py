"""Parameter names of DETR in Hugging Face's files: those of transformers' DetrForObjectDetection.

There are two, by whose ResNet it was made with: timm's, as most are, or transformers' own. Later
versions of transformers have other names in memory and write the same ones into files.
"""

from __future__ import annotations

from ...checkpoint import NameMap, NamePairs, StackedNames, register_name_map
from ..resnet_name_map import torchvision_resnet_pairs
from .detr_name_map import CLASS_ROWS

_BACKBONE = "model.backbone.conv_encoder.model."


def _transformers_resnet_pairs(prefix: str) -> NamePairs:
    """Return the names of transformers' ResNet after a prefix, and ours."""
    pairs = [("embedder.embedder", "stem.conv1")]
    for stage in range(4):
        theirs, ours = f"encoder.stages.{stage}.layers.{{i}}.", f"res{stage + 2}.{{i}}."
        pairs += [(f"{theirs}layer.{n}", f"{ours}conv{n + 1}") for n in range(3)]
        pairs.append((f"{theirs}shortcut", f"{ours}shortcut"))
    return tuple(
        (f"{prefix}{theirs}.{their_end}", f"backbone.{ours}.{our_end}")
        for theirs, ours in pairs
        for their_end, our_end in (
            ("convolution.weight", "weight"),
            ("normalization.{norm}", "norm.{norm}"),
        )
    )


def _layer_pairs(part: str, attentions: dict[str, str], norms: tuple[str, ...]) -> NamePairs:
    """Return the names of a layer of encoder or decoder, but for what is stacked."""
    pairs = [(f"fc{n}", f"ffn.linear{n}") for n in (1, 2)]
    pairs += [(f"{theirs}.out_proj", f"{ours}.out_proj") for theirs, ours in attentions.items()]
    pairs += [(f"{norm}_layer_norm", f"norm{n}") for n, norm in enumerate(norms, 1)]
    return tuple(
        (f"model.{part}.layers.{{i}}.{theirs}.{{p}}", f"{part}.layers.{{i}}.{ours}.{{p}}")
        for theirs, ours in pairs
    )


def _stacked(part: str, attentions: dict[str, str]) -> StackedNames:
    return tuple(
        (
            tuple(f"model.{part}.layers.{{i}}.{theirs}.{x}_proj.{end}" for x in "qkv"),
            f"{part}.layers.{{i}}.{ours}.in_proj_{end}",
        )
        for theirs, ours in attentions.items()
        for end in ("weight", "bias")
    )


_ENCODER = {"self_attn": "self_attn"}
_DECODER = {**_ENCODER, "encoder_attn": "cross_attn"}
_TRANSFORMER: NamePairs = (
    ("model.input_projection.{p}", "neck.projections.0.{p}"),
    *_layer_pairs("encoder", _ENCODER, ("self_attn", "final")),
    *_layer_pairs("decoder", _DECODER, ("self_attn", "encoder_attn", "final")),
    ("model.decoder.layernorm.{p}", "decoder.norm.{p}"),
    ("model.query_position_embeddings.weight", "decoder.query_embed.weight"),
    ("class_labels_classifier.{p}", "decoder.class_head.{p}"),
    ("bbox_predictor.layers.{i}.{p}", "decoder.box_head.layers.{i}.{p}"),
)


def _detr(method: str, resnet: NamePairs) -> NameMap:
    return register_name_map(
        NameMap(
            method=method,
            pairs=(*resnet, *_TRANSFORMER),
            stacked=(*_stacked("encoder", _ENCODER), *_stacked("decoder", _DECODER)),
            class_rows=CLASS_ROWS,
            no_object_row=True,
        )
    )


HUGGING_FACE_DETR = _detr("hugging_face_detr", torchvision_resnet_pairs(_BACKBONE))
HUGGING_FACE_DETR_RESNET = _detr("hugging_face_detr_resnet", _transformers_resnet_pairs(_BACKBONE))
