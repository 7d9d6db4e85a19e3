"""Matches predictions with objects and scores them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from .losses import LossTerm, MetricTerm
from .matcher import HungarianMatcher
from .structures import Matches, Predictions, Targets


class SetCriterion(nn.Module):
    """The set prediction loss: a matcher and a list of loss terms, for all layers in one go.

    Args:
        matcher: matches every layer on its own.
        losses: the terms of the loss.
        metrics: quantities to log, last layer only.
        metric_period: iterations between two entries of the metrics in Detectron2's event storage;
            each entry waits for the device once.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        losses: Sequence[LossTerm],
        metrics: Sequence[MetricTerm] = (),
        metric_period: int = 20,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.losses = list(losses)
        self.metrics = list(metrics)
        self.metric_period = metric_period

    def forward(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """The weighted losses by name; their sum is what is trained on.

        Layers before the last have their number as a suffix: ``loss_class_0``, ``loss_class_1``,
        ..., ``loss_class``.
        """
        matches = self.matcher(predictions, targets)
        self._log_metrics(predictions, targets, matches)
        weighted: dict[str, Tensor] = {}
        for loss in self.losses:
            values = loss.weight * loss(predictions, targets, matches)
            weighted.update(zip(layer_keys(loss.name, len(values)), values.unbind(), strict=True))
        return weighted

    @torch.no_grad()
    def _log_metrics(self, predictions: Predictions, targets: Targets, matches: Matches) -> None:
        storage = _current_event_storage()
        if storage is None or not self.metrics or (storage.iter + 1) % self.metric_period:
            return
        values = [metric(predictions, targets, matches)[-1] for metric in self.metrics]
        names = [metric.name for metric in self.metrics]
        storage.put_scalars(**dict(zip(names, torch.stack(values).tolist(), strict=True)))


def layer_keys(name: str, num_layers: int) -> list[str]:
    """Keys of a per-layer quantity: ``name_0``, ``name_1``, ... and plain ``name`` for the last."""
    return [f"{name}_{layer}" for layer in range(num_layers - 1)] + [name]


def _current_event_storage() -> EventStorage | None:
    try:
        return get_event_storage()
    except AssertionError:  # raised outside of training
        return None
