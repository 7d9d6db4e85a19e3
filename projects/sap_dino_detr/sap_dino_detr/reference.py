"""SAP-DETR's reference on several levels: a point in its cell, and the distances to four sides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from sap_detr.modeling import (
    DenoisingQueries,
    Pyramid,
    Reference,
    cxcywh_to_xyxy,
    inverse_sigmoid,
)
from sap_detr.modeling.reference_points import EPS, boxes_from_sides
from sap_detr.modeling.references import PROPOSAL_SIZE

Salient = TypeVar("Salient", bound="SalientReference")


@dataclass(frozen=True)
class SalientReference(Reference):
    """A point that moves inside the cell of its token, and its distances to the sides of a box.

    Attributes:
        corner: (..., Q, 2), top left corners of the cells.
        cell: (..., Q, 2), width and height of the cells.
        offset: (..., Q, 2), where in the cell the point is, 0 .. 1.
        distances: (..., Q, 4), from the point to left, top, right and bottom.
    """

    num_outputs: ClassVar[int] = 6
    num_coordinates: ClassVar[int] = 6
    salient: ClassVar[bool] = True

    corner: Tensor
    cell: Tensor
    offset: Tensor
    distances: Tensor

    @classmethod
    def priors(cls, pyramid: Pyramid) -> tuple[SalientReference, Tensor]:
        """Return points in the middle of the cells, with sides as in DINO's boxes.

        Every token that is not padding proposes something.
        """
        corner, level = pyramid.corners, pyramid.level
        side = PROPOSAL_SIZE / 2 * 2.0 ** level.to(corner.dtype)
        distances = side[:, None].expand(*corner.shape[:2], 4)
        proposed = torch.ones(corner.shape[:2], dtype=torch.bool, device=corner.device)
        if pyramid.padding_mask is not None:
            proposed = ~pyramid.padding_mask
        cell = 1 / pyramid.extents[:, level]
        return cls(corner, cell, torch.full_like(corner, 0.5), distances), proposed

    @classmethod
    def rank(cls, scores: Tensor, pyramid: Pyramid) -> Tensor:
        """Put padding behind all else, in its order: it is taken where an image has too few cells.

        Its points then lie beyond the image.
        """
        if pyramid.padding_mask is None:
            return scores
        tokens = scores.shape[1]
        order = torch.arange(tokens, dtype=scores.dtype, device=scores.device) / tokens
        return torch.where(pyramid.padding_mask, -1e30 * (1 + order), scores)

    @classmethod
    def of_denoising(cls, queries: DenoisingQueries, pyramid: Pyramid) -> SalientReference:
        """Return the noised boxes around their points, on the level that fits the object's size."""
        if queries.points is None or queries.object_sizes is None:
            raise ValueError("salient references need a denoiser that draws points")
        points = queries.points
        level = (torch.log2(queries.object_sizes / PROPOSAL_SIZE) + 0.5).floor()
        level = level.clamp(0, len(pyramid.sizes) - 1).long()
        extents = pyramid.extents.expand(len(points), -1, -1)
        extents = extents.gather(1, level[..., None].expand(-1, -1, 2))
        index = torch.minimum((points * extents).floor(), extents - 1)
        low, high = ordered_corners(queries.boxes)
        distances = torch.cat((points - low, high - points), dim=-1)
        return cls(
            corner=index / extents,
            cell=1 / extents,
            offset=inverse_sigmoid(points * extents - index, EPS).sigmoid(),
            distances=inverse_sigmoid(distances, EPS).sigmoid(),
        )

    @property
    def points(self) -> Tensor:
        """The points, (..., Q, 2)."""
        return self.corner + self.cell * self.offset

    @property
    def sides(self) -> Tensor:
        """The distances, (..., Q, 4)."""
        return self.distances

    @property
    def boxes(self) -> Tensor:
        """The boxes, (..., Q, 4) cxcywh."""
        return boxes_from_sides(self.points, self.distances)

    @property
    def coordinates(self) -> Tensor:
        """y and x of the point, width, height, and x and y from the point to the centre."""
        x, y = self.points.unbind(-1)
        before, after = self.distances.split(2, dim=-1)
        position = torch.stack((y, x), dim=-1)
        return torch.cat((position, before + after, (after - before) / 2), dim=-1)

    def refine(self: Salient, update: Tensor) -> Salient:
        """Move the point in its cell and the sides, by an update (..., Q, 6) of the logits."""
        move, change = update.split((2, 4), dim=-1)
        return replace(
            self,
            offset=(move + inverse_sigmoid(self.offset, EPS)).sigmoid(),
            distances=(change + inverse_sigmoid(self.distances, EPS)).sigmoid(),
        )


@dataclass(frozen=True)
class FixedPointReference(SalientReference):
    """A point that stays where it started (SAP-DETR's ablation of movable points)."""

    def refine(self, update: Tensor) -> FixedPointReference:
        """Change the sides alone, by the last four of an update (..., Q, 6)."""
        return replace(super().refine(update), offset=self.offset.expand(*update.shape[:-1], 2))


def ordered_corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper left and the lower right corners (..., 2) of cxcywh boxes (..., 4).

    Of a box of negative width or height, whose corners have crossed, they are put in order.
    """
    first, second = cxcywh_to_xyxy(boxes).split(2, dim=-1)
    return torch.minimum(first, second), torch.maximum(first, second)
