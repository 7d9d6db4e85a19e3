"""A bias of attention to the cells of a map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AxisBias:
    """A bias of attention to the cells of a map that is a sum over their columns and rows.

    Attributes:
        x: (B, M, Q, W), the terms of the columns.
        y: (B, M, Q, H), the terms of the rows.
    """

    x: Tensor
    y: Tensor

    def to(self, dtype: torch.dtype) -> AxisBias:
        """Return the same in another dtype."""
        return AxisBias(self.x.to(dtype), self.y.to(dtype))

    def full(self) -> Tensor:
        """(B, M, Q, N) for all N = H * W cells, row by row."""
        return (self.y[..., :, None] + self.x[..., None, :]).flatten(-2)
