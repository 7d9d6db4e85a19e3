"""The module that is exported: from pixels to boxes, with nothing left to be written around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import (
    DetectionTransformer,
    NamedBackbone,
    cxcywh_to_xyxy,
    without_non_finite,
)
from .errors import ExportError

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "classes")


class Deployable(nn.Module):
    """A detector from pixels to boxes, for any batch, height and width.

    Args:
        model: in evaluation mode.
        top_k: most detections of an image; None for the post-processor's own number.

    Raises:
        ExportError: the model is none of this package's, or takes batches apart.
    """

    def __init__(self, model: nn.Module, top_k: int | None = None) -> None:
        super().__init__()
        if not isinstance(model, DetectionTransformer):
            raise ExportError(
                f"a {type(model).__name__} can't be exported, only models of sap_detr"
            )
        if model.padding_invariant:
            raise ExportError(
                "this model has padding_invariant=true: its backbone runs on one image after "
                "another, which no graph for any batch can do. Export it with "
                "model.padding_invariant=false; single images without padding give the same boxes"
            )
        self.model = model
        self.top_k = top_k
        divisibility = max(1, int(getattr(model.backbone, "size_divisibility", 1)))
        self._multiple = math.lcm(max(1, model.size_multiple), divisibility)
        if isinstance(model.backbone, NamedBackbone):
            # Strides in another order make torch.export ask for what it can't know of every width.
            model.backbone.to(memory_format=torch.contiguous_format)

    @property
    def smallest_side(self) -> int:
        """The least height and width in pixels: two cells of the coarsest level."""
        shapes = self.model.backbone.output_shape().values()
        coarsest = max(int(shape.stride) for shape in shapes)
        halvings = int(getattr(self.model.neck, "extra_levels", 0))
        return (coarsest << halvings) + 1

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect in a batch.

        Args:
            images: (B, 3, H, W), uint8, RGB; an image lies in the upper left corner.
            sizes: (B, 2) int64, height and width of each image in pixels. What lies beyond is
                padding, and may hold anything.

        Returns:
            Boxes (B, K, 4), float32, XYXY in pixels of ``images``; scores (B, K), float32; classes
            (B, K), int64. The best come first. Detections that are not finite have a score of
            minus infinity.
        """
        model = self.model
        mean, std = (x.float() for x in (model.pixel_mean, model.pixel_std))
        pixels = ((images.float() - mean) / std).where(_valid(images, sizes), 0.0)
        if self._multiple > 1:
            # Written so that tracing sees multiples.
            multiple = self._multiple
            down, across = (
                (x + multiple - 1) // multiple * multiple - x for x in images.shape[-2:]
            )
            pixels = F.pad(pixels, (0, across, 0, down))
        found = model.postprocessor.select(model.run_network(pixels, sizes, all_layers=False))
        scores, boxes = without_non_finite(found.scores.float(), found.boxes.float())
        most = scores.shape[1] if self.top_k is None else min(self.top_k, scores.shape[1])
        scores, index = scores.topk(most)
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        scale = sizes.flip(-1).to(boxes.dtype).repeat(1, 2)
        return cxcywh_to_xyxy(boxes) * scale[:, None], scores, found.labels.gather(1, index)


def _valid(images: Tensor, sizes: Tensor) -> Tensor:
    """Return which pixels are no padding: (B, 1, H, W) bool."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) < sizes[:, :1]
    columns = torch.arange(width, device=images.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]
