"""Names of EfficientNet-Lite0's parameters: those of efficientnet-lite-pytorch, and timm's."""

from __future__ import annotations

from ..checkpoint import NameMap, NamePairs, register_name_map

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)


def _pairs() -> NamePairs:
    pairs = [("_conv_stem.weight", "conv_stem.weight"), ("_bn0.{norm}", "bn1.{norm}")]
    blocks = [(s, i) for s, count in enumerate(_BLOCKS_PER_STAGE) for i in range(count)]
    for number, (stage, index) in enumerate(blocks):
        theirs, ours = f"_blocks.{number}.", f"blocks.{stage}.{index}."
        # The first block has no expansion, so that its norms have other numbers.
        parts = [("_expand_conv", "_bn0", "conv_pw"), ("_depthwise_conv", "_bn1", "conv_dw")]
        parts += [("_project_conv", "_bn2", "conv_pwl")]
        if stage == 0:
            parts = [parts[1], ("_project_conv", "_bn2", "conv_pw")]
        for place, (convolution, norm, name) in enumerate(parts, 1):
            pairs += [
                (f"{theirs}{convolution}.weight", f"{ours}{name}.weight"),
                (f"{theirs}{norm}.{{norm}}", f"{ours}bn{place}.{{norm}}"),
            ]
    return tuple((theirs, f"backbone.body.{ours}") for theirs, ours in pairs)


EFFICIENTNET_LITE0 = register_name_map(
    NameMap(
        method="efficientnet_lite0",
        pairs=_pairs(),
        dropped=("_conv_head.weight", "_bn1.{norm}", "_fc.{p}"),
        backbone_only=True,
    )
)
