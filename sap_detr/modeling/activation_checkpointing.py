"""Trading time for memory: layers that are computed again in the backward pass."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from torch.utils.checkpoint import checkpoint

from .meta_arch import DetectionTransformer


class _Recomputed:
    """A layer's forward pass of which only the inputs are kept.

    Random numbers are drawn as in the first pass, so that dropout stays the same.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def __call__(self, *args: Any) -> Any:
        forward = type(self._layer).forward
        if not self._layer.training:
            return forward(self._layer, *args)
        return checkpoint(forward, self._layer, *args, use_reentrant=False)


def checkpoint_activations(model: DetectionTransformer) -> None:
    """Lets encoder and decoder layers keep only their inputs for the backward pass.

    Results and gradients are the same. The backbone is left alone: frozen norms keep nothing, and
    what its convolutions keep is their inputs.

    Args:
        model: changed in place; parameters and their names stay as they are.
    """
    for part in (model.encoder, model.decoder):
        for layer in cast(nn.ModuleList, part.layers):
            # On the instance: a wrapping module would change the names of parameters, and hooks
            # of the layer would run again in the backward pass if its call were replaced.
            layer.forward = _Recomputed(layer)
