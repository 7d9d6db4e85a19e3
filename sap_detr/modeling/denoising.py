"""Contrastive denoising (DINO): noised objects as further queries, which shall find the true ones.

A group of queries holds every object twice: its positive, with less noise, shall find it; its
negative, with more, shall find nothing. Groups do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .box_ops import cxcywh_to_xyxy, xyxy_to_cxcywh
from .structures import Matches, Targets


@dataclass(frozen=True)
class DenoisingQueries:
    """Noised objects: P = 2 * S * G slots, S the largest number of objects of an image.

    Group k has the slots 2 * S * k and following: S positives, then S negatives. An image with
    fewer objects leaves the last ones of either half empty.

    Attributes:
        labels: (B, P) int64, noised classes; -1 in empty slots.
        boxes: (B, P, 4), noised boxes, cxcywh as fractions of the unpadded image; width or height
            may be negative where the corners of a negative have crossed. Centred halves where
            empty.
        groups: number of groups G; 0 without any object.
        matches: which slot is the positive of which object, the same in all layers (L = 1).
        points: (B, P, 2), where the queries' salient points are; None for methods without points.
        object_sizes: (B, P), square root of the area of each slot's true object; with the points.
    """

    labels: Tensor
    boxes: Tensor
    groups: int
    matches: Matches
    points: Tensor | None = None
    object_sizes: Tensor | None = None

    @property
    def empty(self) -> Tensor:
        """Which slots are empty: (B, P) bool."""
        return self.labels < 0

    def allowed(self, num_queries: int, mask_empty: bool) -> Tensor:
        """Return who may attend to whom in a self-attention of P + Q queries.

        The Q other queries see only each other; a slot sees its group and those Q.

        Args:
            num_queries: Q.
            mask_empty: whether nobody sees an empty slot but itself. If False, as published, a
                group's result depends on how many objects the other images have.

        Returns:
            (1 or B, 1, P + Q, P + Q) bool, (..., i, j) for whether i sees j.
        """
        slots = self.labels.shape[1]
        index = torch.arange(slots + num_queries, device=self.labels.device)
        # All other queries are one more group.
        group = (index // max(slots // max(self.groups, 1), 1)).clamp(max=self.groups)
        allowed = (group[:, None] == group) | (group == self.groups)
        if not mask_empty:
            return allowed[None, None]
        nobody = torch.nn.functional.pad(self.empty, (0, num_queries))[:, None]
        itself = index[:, None] == index
        return ((allowed & ~nobody) | itself)[:, None]


class ContrastiveDenoiser(nn.Module):
    """Draws noised objects as DINO does (section 3.3 of its paper).

    Args:
        number: about how many positives an image gets, over all groups.
        label_noise: half of this is the probability that a class is replaced by a random one.
        box_noise: how far the corners move, in units of half the width and height: up to once that
            for positives, once to twice for negatives.

    Raises:
        ValueError: if a number is negative.
    """

    def __init__(self, number: int = 100, label_noise: float = 0.5, box_noise: float = 1.0) -> None:
        super().__init__()
        for name, value in (
            ("number", number),
            ("label_noise", label_noise),
            ("box_noise", box_noise),
        ):
            if value < 0:
                raise ValueError(f"denoiser.{name} must not be negative, got {value}")
        self.number = number
        self.label_noise = label_noise
        self.box_noise = box_noise

    def num_groups(self, most_objects: int) -> int:
        """Return the number of groups where an image has at most so many objects.

        Below a number of 50 this is twice the number whatever the objects, as in the published
        code.
        """
        if not most_objects or not self.number:
            return 0
        return 2 * self.number if self.number < 50 else max(1, self.number // most_objects)

    def forward(self, targets: Targets, num_classes: int) -> DenoisingQueries:
        """Noise the objects of a batch, with random numbers of the targets' device.

        Args:
            targets: the objects of the batch.
            num_classes: C, the random classes to choose from.
        """
        most = targets.labels.shape[1]
        groups = self.num_groups(most)
        # A slot's place is (group, positive or negative, object).
        shape = (len(targets.counts), groups, 2, most)
        device = targets.boxes.device
        labels = targets.labels[:, None, None].expand(shape)
        replaced = torch.rand(shape, device=device) < self.label_noise / 2
        labels = torch.where(replaced, torch.randint(num_classes, shape, device=device), labels)
        boxes = targets.boxes[:, None, None]
        half_sizes = torch.cat((boxes[..., 2:], boxes[..., 2:]), dim=-1) / 2
        distance = torch.rand(*shape, 4, dtype=boxes.dtype, device=device)
        distance[:, :, 1] += 1
        sign = 2 * torch.randint(2, distance.shape, device=device) - 1
        moves = self.box_noise * sign * distance * half_sizes
        noised = xyxy_to_cxcywh((cxcywh_to_xyxy(boxes) + moves).clamp(0, 1))
        counts = torch.as_tensor(targets.counts).to(device, non_blocking=True)
        empty = (torch.arange(most, device=device) >= counts[:, None])[:, None, None]
        return DenoisingQueries(
            labels=labels.masked_fill(empty, -1).flatten(1),
            boxes=noised.masked_fill(empty[..., None], 0.5).flatten(1, 3),
            groups=groups,
            matches=positive_matches(targets.counts, groups, most, device),
        )


def positive_matches(
    counts: Sequence[int], groups: int, most_objects: int, device: torch.device
) -> Matches:
    """Return the matches of the positives with their objects; see :class:`DenoisingQueries`."""
    exists = np.arange(most_objects) < np.array(counts, np.int64)[:, None, None]
    exists = np.broadcast_to(exists, (len(counts), groups, most_objects))
    image, group, target = np.nonzero(exists)
    indices = [
        torch.from_numpy(x).to(device, non_blocking=True)
        for x in (image, group * 2 * most_objects + target, target)
    ]
    per_image = tuple(count * groups for count in counts)
    return Matches(indices[0], indices[1][None], indices[2][None], per_image)
