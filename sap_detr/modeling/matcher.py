"""Optimal one-to-one matching of queries and objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from .box_ops import cxcywh_to_xyxy, iou_and_giou
from .reference_points import points_outside_boxes
from .structures import Matches, Predictions, Targets


class CostTerm(Protocol):
    """One summand of the matching cost."""

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor:
        """Return the weighted cost of every pair, (L, B, Q, T)."""


def _gather_labels(x: Tensor, labels: Tensor) -> Tensor:
    """Pick from (L, B, Q, K) the columns of every object's label (B, T): (L, B, Q, T)."""
    index = labels[None, :, None, :].expand(*x.shape[:3], -1)
    return x.gather(-1, index)


class SoftmaxClassCost:
    """Minus the probability of the object's class (DETR): the softmax runs over all K logits."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor:
        return -self.weight * _gather_labels(predictions.logits.softmax(-1), targets.labels)


class FocalClassCost:
    """Cost of calling a query an object of its class, less that of calling it nothing.

    Args:
        weight: weight in the cost.
        alpha: weight of objects against everything else.
        with_objectness: multiply the class probability with that of being an object (SAP-DETR).
    """

    def __init__(
        self, weight: float = 2.0, alpha: float = 0.25, with_objectness: bool = False
    ) -> None:
        self.weight = weight
        self.alpha = alpha
        self.with_objectness = with_objectness

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor:
        p = _gather_labels(predictions.logits, targets.labels).sigmoid()
        if self.with_objectness:
            if predictions.objectness is None:
                raise ValueError("with_objectness=True needs a decoder that predicts objectness")
            p = p * predictions.objectness.sigmoid()
        eps = 1e-8
        object_cost = -self.alpha * (1 - p).square() * (p + eps).log()
        nothing_cost = -(1 - self.alpha) * p.square() * (1 - p + eps).log()
        return self.weight * (object_cost - nothing_cost)


class L1BoxCost:
    """Sum of the absolute differences of the four coordinates (fractions of the image).

    Args:
        weight: weight in the cost.
        corners: compare XYXY corners (SAP-DETR) instead of cxcywh.
    """

    def __init__(self, weight: float = 5.0, corners: bool = False) -> None:
        self.weight = weight
        self.corners = corners

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor:
        # One coordinate at a time: a quarter of the memory of the difference of all four, and
        # none of the slowness of torch.cdist.
        predicted, wanted = predictions.boxes, targets.boxes
        if self.corners:
            predicted, wanted = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted)
        pairs = zip(predicted.unbind(-1), wanted.unbind(-1), strict=True)
        distances = [(p[..., None] - t[:, None]).abs() for p, t in pairs]
        return self.weight * (distances[0] + distances[1] + distances[2] + distances[3])


class GIoUCost:
    """Minus the generalised IoU."""

    def __init__(self, weight: float = 2.0, eps: float = 0.0) -> None:
        self.weight = weight
        self.eps = eps

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor:
        _, giou = iou_and_giou(
            cxcywh_to_xyxy(predictions.boxes)[..., None, :],
            cxcywh_to_xyxy(targets.boxes)[:, None],
            self.eps,
        )
        return -self.weight * giou


class OutsidePointCost:
    """A high cost where the query's point is outside of the object's box (SAP-DETR).

    It decides before all other costs wherever the box has points inside.
    """

    def __init__(self, weight: float = 9999.0) -> None:
        self.weight = weight

    def __call__(self, predictions: Predictions, targets: Targets) -> Tensor:
        if predictions.points is None:
            raise ValueError("OutsidePointCost needs a decoder that predicts points")
        boxes = cxcywh_to_xyxy(targets.boxes)[:, None]
        outside = points_outside_boxes(predictions.points[..., None, :], boxes)
        return self.weight * outside


class HungarianMatcher(nn.Module):
    """Assigns objects to queries so that the summed cost is the least, per layer and image.

    The costs of all layers, images and sets of queries cross to the host together; scipy solves
    each problem there.

    Args:
        costs: summands of the cost by name, weights included.
    """

    # Larger than any sum of real costs.
    NON_FINITE_COST = 1e8

    def __init__(self, costs: Mapping[str, CostTerm]) -> None:
        super().__init__()
        self.costs = dict(costs)

    @torch.no_grad()
    def forward(self, sets: Sequence[Predictions], targets: Targets) -> list[Matches]:
        """Match all layers and images of a batch, with one copy to the host for all sets.

        Non-finite costs, which a diverging model makes, count as very high: what becomes of such
        a step is decided where the loss is looked at, not by a crash here.

        Args:
            sets: predictions (L, B, Q, ...) of one group each, see :meth:`Predictions.by_group`; L
                and Q may differ.
            targets: the objects of the batch.
        """
        first, *others = self.costs.values()
        costs = [sum((cost(x, targets) for cost in others), first(x, targets)) for x in sets]
        limit = self.NON_FINITE_COST
        flat = torch.cat([x.flatten() for x in costs])
        flat = torch.nan_to_num(flat, nan=limit, posinf=limit, neginf=limit)
        on_host = flat.cpu().split([x.numel() for x in costs])
        return [
            self._solve(x.view(cost.shape).numpy(), targets.counts, cost.device)
            for x, cost in zip(on_host, costs, strict=True)
        ]

    @staticmethod
    def _solve(cost: np.ndarray, num_objects: Sequence[int], device: torch.device) -> Matches:
        """Assign by costs (L, B, Q, T)."""
        num_layers, _, num_queries, _ = cost.shape
        counts = tuple(min(n, num_queries) for n in num_objects)
        queries = np.zeros((num_layers, sum(counts)), dtype=np.int64)
        objects = np.zeros_like(queries)
        ends = np.cumsum(counts).tolist()
        for image, (end, count) in enumerate(zip(ends, counts, strict=True)):
            span = slice(end - count, end)
            for layer in range(num_layers):
                queries[layer, span], objects[layer, span] = linear_sum_assignment(
                    cost[layer, image, :, : num_objects[image]]
                )
        images = np.repeat(np.arange(len(counts)), counts)
        indices = [
            torch.from_numpy(x).to(device, non_blocking=True) for x in (images, queries, objects)
        ]
        return Matches(indices[0], indices[1], indices[2], counts)
