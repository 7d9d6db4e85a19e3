"""Where queries of a deformable decoder are: the reference that each layer refines."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from .denoising import DenoisingQueries
from .reference_points import EPS, inverse_sigmoid
from .structures import Pyramid

# Width and height of the boxes that tokens of level 0 propose; on level l, 2 ** l as much.
PROPOSAL_SIZE = 0.05

Self = TypeVar("Self", bound="Reference")


@dataclass(frozen=True)
class Reference(abc.ABC):
    """References of Q queries, as fractions of the unpadded image. All tensors are (..., Q, n).

    Attributes:
        num_outputs: numbers that a box head predicts for :meth:`refine`.
        num_coordinates: numbers that describe a query's position, see :attr:`coordinates`.
        salient: whether the points are predicted, and not just the boxes' centres.
    """

    num_outputs: ClassVar[int]
    num_coordinates: ClassVar[int]
    salient: ClassVar[bool]

    @classmethod
    @abc.abstractmethod
    def priors(cls: type[Self], pyramid: Pyramid) -> tuple[Self, Tensor]:
        """Return what the tokens propose, (B or 1, N, n), and which have something to propose.

        The latter is (B or 1, N) bool.
        """

    @classmethod
    @abc.abstractmethod
    def of_denoising(cls: type[Self], queries: DenoisingQueries, pyramid: Pyramid) -> Self:
        """Return the references of noised objects, (B, P, n)."""

    @property
    @abc.abstractmethod
    def boxes(self) -> Tensor:
        """The boxes, (..., Q, 4) cxcywh."""

    @property
    @abc.abstractmethod
    def points(self) -> Tensor:
        """The points that layers sample around, (..., Q, 2)."""

    @property
    @abc.abstractmethod
    def sides(self) -> Tensor:
        """Distances from the points to the boxes' left, top, right and bottom, (..., Q, 4)."""

    @property
    @abc.abstractmethod
    def coordinates(self) -> Tensor:
        """What the position of a query is made of, (..., Q, n); pairs of y and x, height last."""

    @abc.abstractmethod
    def refine(self: Self, update: Tensor) -> Self:
        """Move by what a box head predicted, (..., Q, ``num_outputs``)."""

    @classmethod
    def rank(cls, scores: Tensor, pyramid: Pyramid) -> Tensor:
        """Return by what the first stage chooses tokens, from their scores: (B, N) each."""
        return scores

    def where_proposed(self: Self, proposed: Tensor) -> Self:
        """Return the references of refined priors, (..., Q) of which had something to propose."""
        return self

    def map(self: Self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to all tensors."""
        return self.combine([self], lambda tensors: function(tensors[0]))

    def detach(self: Self) -> Self:
        """Return the references without their history."""
        return self.map(Tensor.detach)

    @classmethod
    def combine(
        cls: type[Self], parts: Sequence[Self], function: Callable[[list[Tensor]], Tensor]
    ) -> Self:
        """Combine the tensors of several references, by ``torch.stack`` for example."""
        names = [f.name for f in fields(parts[0]) if isinstance(getattr(parts[0], f.name), Tensor)]
        return replace(parts[0], **{n: function([getattr(x, n) for x in parts]) for n in names})


@dataclass(frozen=True)
class BoxReference(Reference):
    """A box (DINO): the point is its centre.

    Attributes:
        state: (..., Q, 4), the boxes.
    """

    num_outputs: ClassVar[int] = 4
    num_coordinates: ClassVar[int] = 4
    salient: ClassVar[bool] = False

    state: Tensor

    @classmethod
    def priors(cls, pyramid: Pyramid) -> tuple[BoxReference, Tensor]:
        """Return boxes around the cells, whose size goes by the level (DINO, section 5).

        Tokens whose box is not within 0.01 .. 0.99 in all four numbers propose nothing.
        """
        centres = pyramid.centres
        size = PROPOSAL_SIZE * 2.0 ** pyramid.level.to(centres.dtype)
        boxes = torch.cat((centres, size[:, None].expand(*centres.shape[:2], 2)), dim=-1)
        proposed = ((boxes > 0.01) & (boxes < 0.99)).all(-1)
        if pyramid.padding_mask is not None:
            proposed = proposed & ~pyramid.padding_mask
        return cls(boxes), proposed

    @classmethod
    def of_denoising(cls, queries: DenoisingQueries, pyramid: Pyramid) -> BoxReference:
        """Return the noised boxes, which pass the inverse sigmoid once, as published."""
        return cls(inverse_sigmoid(queries.boxes, EPS).sigmoid())

    @property
    def boxes(self) -> Tensor:
        """The boxes, (..., Q, 4) cxcywh."""
        return self.state

    @property
    def points(self) -> Tensor:
        """The centres, (..., Q, 2)."""
        return self.state[..., :2]

    @property
    def sides(self) -> Tensor:
        """Half the width and the height, twice: (..., Q, 4)."""
        half = self.state[..., 2:] / 2
        return torch.cat((half, half), dim=-1)

    @property
    def coordinates(self) -> Tensor:
        """y, x, width, height: (..., Q, 4)."""
        x, y, width, height = self.state.unbind(-1)
        return torch.stack((y, x, width, height), dim=-1)

    def refine(self, update: Tensor) -> BoxReference:
        """Move by an update (..., Q, 4) of the logits."""
        return BoxReference((update + inverse_sigmoid(self.state, EPS)).sigmoid())

    def where_proposed(self, proposed: Tensor) -> BoxReference:
        """Return the whole image's size around its lower right corner where nothing was proposed.

        The published prior is infinite there.
        """
        return BoxReference(self.state.masked_fill(~proposed[..., None], 1))
