"""Parameter groups of the DETR family."""

from __future__ import annotations

from typing import Any

from torch import nn


def get_parameter_groups(
    model: nn.Module, base_lr: float, backbone_factor: float = 0.1
) -> list[dict[str, Any]]:
    """Return two groups: the backbone with a smaller learning rate, and everything else.

    Weight decay is not set, so that the optimizer's applies to both: the published recipes decay
    norms, biases and query embeddings too.

    Args:
        model: its trained parameters are grouped by whether their name contains "backbone".
        base_lr: learning rate outside the backbone.
        backbone_factor: the backbone's rate as a part of ``base_lr``.
    """
    backbone: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (backbone if "backbone" in name else others).append(parameter)
    groups = [
        {"params": others, "lr": base_lr},
        {"params": backbone, "lr": base_lr * backbone_factor},
    ]
    return [group for group in groups if group["params"]]
