"""The ResNet of the DETR family, from Detectron2's parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

from ..layers import fold_frozen_norms


def build_resnet(
    depth: int = 50,
    dc5: bool = False,
    out_features: Sequence[str] = ("res5",),
    norm: str = "FrozenBN",
    freeze_at: int = 2,
) -> ResNet:
    """Build a torchvision-style ResNet: stride in the 3x3 convolution of a bottleneck.

    Args:
        depth: 50 or 101.
        dc5: keep res5 at stride 16. Its 3x3 convolutions then have dilation 1 in the first block
            and 2 in the others, which is torchvision's rule and the published one; Detectron2's
            ``RES5_DILATION = 2`` dilates the first block too and is another network.
        out_features: stages to return, of res2 .. res5.
        norm: normalisation of the convolutions. "FrozenBN" is published and needs ImageNet
            weights; use "BN" to train from scratch.
        freeze_at: stages below this number are not trained: 2 is the stem and res2, 0 is nothing.

    Raises:
        ValueError: if there is no such depth.
    """
    if depth not in (50, 101):
        raise ValueError(f"ResNet depth must be one of [50, 101], got {depth}")
    stages = ResNet.make_default_stages(depth, stride_in_1x1=False, norm=norm)
    if dc5:
        first, *others = stages[-1]
        first.stride = 1
        first.conv2.stride = first.shortcut.stride = (1, 1)
        for block in others:
            block.conv2.padding = block.conv2.dilation = (2, 2)
    stem = BasicStem(in_channels=3, out_channels=64, norm=norm)
    return _fast(ResNet(stem, stages, out_features=list(out_features)).freeze(freeze_at))


def build_small_resnet(
    width: int = 32,
    blocks_per_stage: Sequence[int] = (1, 1, 1, 1),
    out_features: Sequence[str] = ("res5",),
    norm: str = "BN",
) -> ResNet:
    """Build a narrow ResNet of basic blocks, small enough to be trained from scratch on a CPU.

    Args:
        width: channels of stem and res2; every later stage has twice those of the one before.
        blocks_per_stage: blocks of res2, res3, ...; as many stages as there are entries.
        out_features: stages to return.
        norm: normalisation of the convolutions, by Detectron2's names.
    """
    stages = []
    for index, num_blocks in enumerate(blocks_per_stage):
        stride = 1 if index == 0 else 2
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                stride_per_block=[stride] + [1] * (num_blocks - 1),
                in_channels=width * 2 ** max(index - 1, 0),
                out_channels=width * 2**index,
                norm=norm,
            )
        )
    stem = BasicStem(in_channels=3, out_channels=width, norm=norm)
    return _fast(ResNet(stem, stages, out_features=list(out_features)))


def _fast(resnet: ResNet) -> ResNet:
    """Folds frozen norms into the convolutions, whose weights get the layout that is fastest.

    Features then have that layout too, in which the tokens of a map stand one after another.
    """
    fold_frozen_norms(resnet)
    return resnet.to(memory_format=torch.channels_last)
