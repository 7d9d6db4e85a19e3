"""From predictions to detections."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from .box_ops import cxcywh_to_xyxy
from .structures import Predictions


class Selection(NamedTuple):
    """The detections of a batch, n of each image.

    Attributes:
        scores: (B, n).
        labels: (B, n) int64.
        boxes: (B, n, 4), cxcywh as fractions of the image.
        queries: (B, n) int64, which query each detection is of.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    queries: Tensor


class Postprocessor(nn.Module, abc.ABC):
    """Turns the predictions of the last layer into detections."""

    @abc.abstractmethod
    def select(self, predictions: Predictions) -> Selection:
        """Return the detections of the last layer."""

    def forward(
        self, predictions: Predictions, output_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Turn the last layer into detections.

        Args:
            predictions: of any number of layers.
            output_sizes: (height, width) in pixels that the boxes of each image shall refer to.

        Returns:
            Per image, ``pred_boxes`` (XYXY pixels), ``scores``, ``pred_classes`` and
            ``query_index``, in the order of :meth:`select`; see :func:`without_non_finite`.
        """
        found = self.select(predictions)
        scores, boxes = without_non_finite(found.scores, found.boxes)
        sizes = torch.as_tensor([(w, h, w, h) for h, w in output_sizes], dtype=boxes.dtype)
        pixels = cxcywh_to_xyxy(boxes) * sizes.to(boxes.device, non_blocking=True)[:, None]
        parts = zip(output_sizes, pixels, scores, found.labels, found.queries, strict=True)
        return [
            Instances(size, pred_boxes=Boxes(b), scores=s, pred_classes=c, query_index=q)
            for size, b, s, c, q in parts
        ]


class SoftmaxPostprocessor(Postprocessor):
    """One detection per query: its best real class, whatever "no object" says (DETR).

    No threshold, no non-maximum suppression and no clipping, as published.
    """

    def select(self, predictions: Predictions) -> Selection:
        """Return the detections of the last layer, one per query."""
        scores, labels = predictions.logits[-1].softmax(-1)[..., :-1].max(-1)
        queries = torch.arange(scores.shape[1], device=scores.device).expand_as(labels)
        return Selection(scores, labels, predictions.boxes[-1], queries)


class SigmoidTopKPostprocessor(Postprocessor):
    """The best pairs of query and class; a query may be in several (SAP-DETR, SAM-DETR).

    No threshold, no non-maximum suppression and no clipping, as published.

    Args:
        num_detections: most detections of an image; 300 in SAP-DETR, 100 in SAM-DETR.
    """

    def __init__(self, num_detections: int = 300) -> None:
        super().__init__()
        self.num_detections = num_detections

    def select(self, predictions: Predictions) -> Selection:
        """Return the detections of the last layer, the best first."""
        logits, boxes = predictions.logits[-1], predictions.boxes[-1]
        num_classes = logits.shape[-1]
        pairs = logits.sigmoid().flatten(1)
        scores, index = pairs.topk(min(self.num_detections, pairs.shape[1]))
        queries = index // num_classes
        boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
        return Selection(scores, index % num_classes, boxes, queries)


def without_non_finite(scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Give detections that are not finite a box of size 0 and a score of minus infinity.

    pycocotools takes a box of NaN for one that overlaps every object. Such a score no threshold and
    no evaluator takes for a find, and by it they can be told. No number has to be read on the host
    for that.

    Args:
        scores: (B, n).
        boxes: (B, n, 4).
    """
    finite = scores.isfinite() & boxes.isfinite().all(-1)
    return scores.where(finite, -math.inf), boxes.where(finite[..., None], 0)
