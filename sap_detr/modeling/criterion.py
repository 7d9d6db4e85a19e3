"""Matches predictions with objects and scores them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from .losses import LossTerm, MetricTerm
from .matcher import HungarianMatcher
from .structures import Matches, Predictions, Targets


class SetCriterion(nn.Module):
    """The set prediction loss: a matcher and loss terms, for all layers in one go.

    The same terms score every set of queries: the decoder's, in several groups the mean over them;
    the first stage's ``proposals``, which are matched as well; and those of ``denoising``, whose
    matches are known.

    Args:
        matcher: matches every layer on its own.
        losses: the terms of the loss by name. The result of the term ``class`` is ``loss_class``.
        metrics: quantities to log by the name that they are logged under, last layer only.
        metric_period: iterations between two entries of the metrics in Detectron2's event storage;
            each entry waits for the device once.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        losses: Mapping[str, LossTerm],
        metrics: Mapping[str, MetricTerm] | None = None,
        metric_period: int = 20,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.losses = dict(losses)
        self.metrics = dict(metrics or {})
        self.metric_period = metric_period

    def forward(
        self, predictions: Predictions, targets: Targets, normalizer: Tensor
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name; their sum is what is trained on.

        Layers before the last have their number as a suffix: ``loss_class_0``, ``loss_class_1``,
        ..., ``loss_class``. Those of further sets are ``loss_proposal_class``, ``loss_dn_class_0``.

        Args:
            predictions: of all layers.
            targets: the objects of the batch.
            normalizer: what sums over objects are divided by, (); see :func:`object_normalizer`.
        """
        found = self.match(predictions, targets)
        self._log_metrics(predictions, found, targets, normalizer)
        losses: dict[str, Tensor] = {}
        for prefix, scored in query_sets(predictions).items():
            losses |= self.weighted_losses(scored, targets, found[prefix], normalizer, prefix)
        return losses

    def match(self, predictions: Predictions, targets: Targets) -> dict[str, Matches]:
        """Return the matches of every set of queries, see :func:`query_sets`.

        Groups count as layers, see :meth:`Predictions.by_group`.
        """
        sets = query_sets(predictions)
        open_sets = {key: x.by_group() for key, x in sets.items() if x.matches is None}
        found = self.matcher(list(open_sets.values()), targets)
        known = {key: x.matches for key, x in sets.items() if x.matches is not None}
        return known | dict(zip(open_sets, found, strict=True))

    def weighted_losses(
        self,
        predictions: Predictions,
        targets: Targets,
        matches: Matches,
        normalizer: Tensor,
        prefix: str = "",
    ) -> dict[str, Tensor]:
        """Return the losses of one set of queries and its matches; see :meth:`forward`."""
        weighted: dict[str, Tensor] = {}
        groups = predictions.groups
        by_group = predictions.by_group()
        divisor = normalizer * predictions.repeats
        for name, loss in self.losses.items():
            values = loss.weight * loss(by_group, targets, matches, divisor)
            values = values.unflatten(0, (-1, groups)).mean(1)
            keys = layer_keys(f"loss_{prefix}{name}", len(values))
            weighted.update(zip(keys, values.unbind(), strict=True))
        return weighted

    @torch.no_grad()
    def _log_metrics(
        self,
        predictions: Predictions,
        found: Mapping[str, Matches],
        targets: Targets,
        normalizer: Tensor,
    ) -> None:
        storage = _current_event_storage()
        if storage is None or not self.metrics or (storage.iter + 1) % self.metric_period:
            return
        values = {
            # Of the first group, in the last layer.
            prefix + name: metric(x.by_group(), targets, found[prefix], normalizer)[-x.groups]
            for prefix, x in query_sets(predictions).items()
            if x.matches is None
            for name, metric in self.metrics.items()
        }
        numbers = torch.stack(list(values.values())).tolist()
        storage.put_scalars(**dict(zip(values, numbers, strict=True)))


def query_sets(predictions: Predictions) -> dict[str, Predictions]:
    """Return the sets of queries that are scored, by the prefix of their losses."""
    further = {"proposal_": predictions.proposals, "dn_": predictions.denoising}
    return {"": predictions, **{key: x for key, x in further.items() if x is not None}}


def object_normalizer(num_objects: float, like: Tensor) -> Tensor:
    """Return the divisor of sums over objects: their mean number over all processes, at least 1.

    With it the mean gradient of several processes is that of one process with all their images. A
    collective operation: where there are several processes, all have to call it.

    Args:
        num_objects: number of objects of this process, in a batch or in the mean of several.
        like: has the dtype and the device of the result.

    Returns:
        A tensor without dimensions.
    """
    mean = torch.full((), num_objects, dtype=like.dtype, device=like.device)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(mean)
        mean /= comm.get_world_size()
    return mean.clamp_(min=1.0)


def layer_keys(name: str, num_layers: int) -> list[str]:
    """Keys of a per-layer quantity: ``name_0``, ``name_1``, ... and plain ``name`` for the last."""
    return [f"{name}_{layer}" for layer in range(num_layers - 1)] + [name]


def _current_event_storage() -> EventStorage | None:
    try:
        return get_event_storage()
    except AssertionError:  # raised outside of training
        return None
