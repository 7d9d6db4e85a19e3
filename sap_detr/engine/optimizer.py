"""Parameter groups of the DETR family."""

from __future__ import annotations

from typing import Any

from torch import nn


def get_parameter_groups(
    model: nn.Module, base_lr: float, backbone_factor: float = 0.1, backbone_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return two groups: everything but the backbone, and the backbone with a smaller rate.

    Weight decay is not set, so that the optimizer's applies to all: the published recipes decay
    norms, biases and query embeddings too.

    Args:
        model: its trained parameters are grouped by whether their name contains "backbone".
        base_lr: learning rate outside the backbone.
        backbone_factor: the rate of the backbone's last layer as a part of ``base_lr``.
        backbone_decay: factor from each layer of the backbone to the one before. Other than 1, each
            layer is a group of its own, and the backbone must say what its layers are
            (``parameter_depths``, as :class:`~sap_detr.modeling.TimmBackbone` does).

    Raises:
        ValueError: if a backbone that does not say so shall have a decay.
    """
    depths: dict[str, int] = {}
    if backbone_decay != 1:
        backbone = getattr(model, "backbone", None)
        if backbone is None or not hasattr(backbone, "parameter_depths"):
            raise ValueError(
                f"optimizer.params.backbone_decay={backbone_decay} needs a backbone that knows its "
                f"layers, such as TimmBackbone; {type(backbone).__name__} does not. Set it to 1"
            )
        depths = {f"backbone.{k}": v for k, v in backbone.parameter_depths().items()}
    deepest = max(depths.values(), default=0)
    others: list[nn.Parameter] = []
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "backbone" in name:
            layers.setdefault(deepest - depths.get(name, 0), []).append(parameter)
        else:
            others.append(parameter)
    groups = [{"params": others, "lr": base_lr}] + [
        {"params": parameters, "lr": base_lr * backbone_factor * backbone_decay**above}
        for above, parameters in sorted(layers.items())
    ]
    return [group for group in groups if group["params"]]
