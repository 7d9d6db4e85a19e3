"""Contrastive denoising of points and sides."""

from __future__ import annotations

from dataclasses import replace

import torch

from sap_detr.modeling import ContrastiveDenoiser, DenoisingQueries, Targets, cxcywh_to_xyxy

from .reference import ordered_corners


class SalientDenoiser(ContrastiveDenoiser):
    """DINO's noise, with a salient point in every noised box.

    The point of a positive is anywhere in both its box and its object, where a matched query's
    would be; that of a negative is anywhere in its box. With a box noise of at most 1 a positive's
    box always overlaps its object, because each corner stays on its side of the centre.
    """

    def num_groups(self, most_objects: int) -> int:
        """Return how many groups give an image about ``number`` positives, at least 1."""
        return max(1, self.number // most_objects) if most_objects and self.number else 0

    def forward(self, targets: Targets, num_classes: int) -> DenoisingQueries:
        """Noise the objects of a batch; see :class:`ContrastiveDenoiser`."""
        queries = super().forward(targets, num_classes)
        most = targets.labels.shape[1]
        # A slot's place is (group, positive or negative, object).
        objects = targets.boxes[:, None, None].expand(-1, queries.groups, 2, -1, -1).flatten(1, 3)
        low, high = ordered_corners(queries.boxes)
        object_low, object_high = cxcywh_to_xyxy(objects).split(2, dim=-1)
        slot = torch.arange(queries.labels.shape[1], device=objects.device)
        positive = (slot // max(most, 1) % 2 == 0) & ~queries.empty
        low_limit = torch.where(positive[..., None], torch.maximum(low, object_low), low)
        high_limit = torch.where(positive[..., None], torch.minimum(high, object_high), high)
        points = torch.lerp(low_limit, high_limit, torch.rand_like(low))
        return replace(
            queries, points=points, object_sizes=(objects[..., 2] * objects[..., 3]).sqrt()
        )
