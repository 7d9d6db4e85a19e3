"""The terms that a criterion is composed of: small objects over a pure function each.

A loss term has a ``weight`` and maps (predictions, targets, matches, normalizer) to its unweighted
values (L,), one per decoder layer. A metric term does the same for a quantity that is only logged.
What is a sum over objects is divided by the normalizer, see :func:`object_normalizer`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from .box_ops import cxcywh_to_xyxy, iou_and_giou
from .reference_points import points_outside_boxes
from .structures import Matches, Predictions, Targets


class MetricTerm(Protocol):
    """A quantity that is logged and not trained on."""

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        """Return the quantity in every layer, (L,); a loss without its weight."""


class LossTerm(MetricTerm, Protocol):
    """One summand of the training loss."""

    weight: float


def _matched_corners(
    predictions: Predictions, targets: Targets, matches: Matches
) -> tuple[Tensor, Tensor]:
    """Return the boxes of matched queries and of their objects, (L, P, 4) XYXY each."""
    predicted = matches.gather_predictions(predictions.boxes)
    return cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(matches.gather_targets(targets.boxes))


class SoftmaxClassLoss:
    """DETR's classification loss: cross-entropy over all queries with a light "no object".

    Divided by the sum of the class weights of the targets, not by the number of objects.

    Args:
        weight: weight in the total loss.
        no_object_weight: class weight of "no object"; the others have 1.
    """

    def __init__(self, weight: float = 1.0, no_object_weight: float = 0.1) -> None:
        self.weight = weight
        self.no_object_weight = no_object_weight

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        logits = predictions.logits
        no_object = logits.shape[-1] - 1
        labels = torch.full(logits.shape[:-1], no_object, device=logits.device)
        labels = matches.scatter(matches.gather_targets(targets.labels), labels)
        nll = F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
        class_weight = torch.ones_like(nll).masked_fill(labels == no_object, self.no_object_weight)
        return (class_weight * nll).sum((1, 2)) / class_weight.sum((1, 2))


class FocalClassLoss:
    """Focal loss of all classes and queries, over the number of objects (Lin et al., ICCV 2017).

    Args:
        weight: weight in the total loss.
        alpha: weight of objects against everything else.
    """

    def __init__(self, weight: float = 1.0, alpha: float = 0.25) -> None:
        self.weight = weight
        self.alpha = alpha

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        logits = predictions.logits
        labels = F.one_hot(matches.gather_targets(targets.labels), logits.shape[-1])
        wanted = matches.scatter(labels.to(logits.dtype), torch.zeros_like(logits))
        result: Tensor = sigmoid_focal_loss(logits, wanted, self.alpha).sum((1, 2, 3)) / normalizer
        return result


class ObjectnessLoss:
    """Focal loss of the objectness, which shall be the IoU of a matched query and 0 of others.

    The IoU is not detached: this loss trains the box as well (SAP-DETR's code).

    Args:
        weight: weight in the total loss.
        alpha: weight of objects against everything else.
        eps: added to the denominator of the IoU.
    """

    def __init__(self, weight: float = 1.0, alpha: float = 0.25, eps: float = 1e-6) -> None:
        self.weight = weight
        self.alpha = alpha
        self.eps = eps

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        if predictions.objectness is None:
            raise ValueError("ObjectnessLoss needs a decoder that predicts objectness")
        iou, _ = iou_and_giou(*_matched_corners(predictions, targets, matches), self.eps)
        logits = predictions.objectness[..., 0]
        quality = matches.scatter(iou, torch.zeros_like(logits))
        result: Tensor = sigmoid_focal_loss(logits, quality, self.alpha).sum((1, 2)) / normalizer
        return result


class L1BoxLoss:
    """Sum of |differences| of the matched boxes, over the number of objects.

    Args:
        weight: weight in the total loss.
        corners: compare XYXY corners (SAP-DETR) instead of cxcywh.
    """

    def __init__(self, weight: float = 5.0, corners: bool = False) -> None:
        self.weight = weight
        self.corners = corners

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        predicted = matches.gather_predictions(predictions.boxes)
        wanted = matches.gather_targets(targets.boxes)
        if self.corners:
            predicted, wanted = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted)
        return (predicted - wanted).abs().sum((1, 2)) / normalizer


class GIoULoss:
    """Sum of 1 - GIoU of the matched boxes, over the number of objects."""

    def __init__(self, weight: float = 2.0, eps: float = 0.0) -> None:
        self.weight = weight
        self.eps = eps

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        _, giou = iou_and_giou(*_matched_corners(predictions, targets, matches), self.eps)
        return (1 - giou).sum(1) / normalizer


class ClassError:
    """Percentage of the matched queries whose best logit is not the object's class.

    100 where there is no object at all, as in the published codes.
    """

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        guesses = matches.gather_predictions(predictions.logits).argmax(-1)
        hits = (guesses == matches.gather_targets(targets.labels)).to(predictions.logits.dtype)
        return 100 - 100 * hits.sum(1) / max(hits.shape[1], 1)


class OutsidePoints:
    """Matched queries whose point is outside of their object's box, over the number of objects.

    Published as a loss, ``loss_inner`` with weight 2, but it has no gradient: it is what
    :class:`~sap_detr.modeling.matcher.OutsidePointCost` could not avoid.
    """

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        if predictions.points is None:
            raise ValueError("OutsidePoints needs a decoder that predicts points")
        points = matches.gather_predictions(predictions.points)
        boxes = cxcywh_to_xyxy(matches.gather_targets(targets.boxes))
        return points_outside_boxes(points, boxes).sum(1) / normalizer


class CardinalityError:
    """Mean over images of |queries that predict an object - objects| (DETR)."""

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, normalizer: Tensor
    ) -> Tensor:
        logits = predictions.logits
        predicted = (logits.argmax(-1) != logits.shape[-1] - 1).sum(-1)
        objects = torch.as_tensor(targets.counts).to(logits.device, non_blocking=True)
        return (predicted - objects).abs().to(logits.dtype).mean(1)
