"""Names of ResNets' parameters: torchvision's, and Detectron2's, which are ours."""

from __future__ import annotations

from ..checkpoint import NameMap, NamePairs, register_name_map


def torchvision_resnet_pairs(prefix: str) -> NamePairs:
    """Return torchvision's names after `prefix`, and ours."""
    pairs = [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.{norm}", "stem.conv1.norm.{norm}"),
    ]
    for layer in range(1, 5):
        theirs, ours = f"layer{layer}.{{i}}.", f"res{layer + 1}.{{i}}."
        pairs += [
            (theirs + "conv{k}.weight", ours + "conv{k}.weight"),
            (theirs + "bn{k}.{norm}", ours + "conv{k}.norm.{norm}"),
            (theirs + "downsample.0.weight", ours + "shortcut.weight"),
            (theirs + "downsample.1.{norm}", ours + "shortcut.norm.{norm}"),
        ]
    return tuple((prefix + theirs, "backbone." + ours) for theirs, ours in pairs)


def detectron2_resnet_pairs(prefix: str) -> NamePairs:
    """Return Detectron2's names after `prefix`, and ours."""
    names = [ours for _, ours in torchvision_resnet_pairs("")]
    return tuple((prefix + ours.removeprefix("backbone."), ours) for ours in names)


TORCHVISION_RESNET = register_name_map(
    NameMap(
        method="torchvision_resnet",
        pairs=torchvision_resnet_pairs(""),
        dropped=("fc.{p}",),
        backbone_only=True,
    )
)

DETECTRON2_RESNET = register_name_map(
    NameMap(
        method="detectron2_resnet",
        pairs=detectron2_resnet_pairs(""),
        dropped=("stem.fc.{p}", "linear.{p}"),
        backbone_only=True,
    )
)
