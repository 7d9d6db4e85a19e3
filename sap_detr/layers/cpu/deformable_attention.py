"""Deformable attention as weighted sums of rows of a table.

A bilinear read is a weighted sum of four cells, and all of a head's reads together are one weighted
sum of rows of a table. Written that way the CPU does it several times faster than by sampling maps,
and next to nothing has to be kept for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Queries are taken in portions whose intermediate results have about this many numbers.
PORTION = 1_000_000


def sums_of_rows(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """:func:`~sap_detr.layers.deformable_attention` of a value (B, N, M, E)."""
    summed: Tensor = _WeightedRows.apply(_bordered(value, sizes), locations, weights, sizes)
    return summed.flatten(2)


def _bordered(value: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, N, M, E) to (B, M, C, E), the levels with one cell of zeros on all sides.

    With the border all four cells around a point exist, so that none has to be masked.
    """
    levels = []
    for level, size in zip(value.split([h * w for h, w in sizes], dim=1), sizes, strict=True):
        levels.append(F.pad(level.transpose(1, 2).unflatten(2, size), (0, 0, 1, 1, 1, 1)))
    return torch.cat([level.flatten(2, 3) for level in levels], dim=2)


class _Layout:
    """Where in a bordered table (B, M, C, E) the cells of the S = L * P samples of a head are.

    Attributes:
        sizes: (H, W) of each level.
        bordered: number of cells of each level, border included.
        last: (2, S), largest x and y of a cell, as floating point numbers.
        step: (S,) int32, from a row of the level to the next one.
        corners: (4, S) int32, from the upper left one of four cells to all of them, row by row.
        origin: (B, 1, M, S) int32, row of the table with the level's first cell.
    """

    def __init__(
        self, table: Tensor, sizes: Sequence[tuple[int, int]], points_per_level: int
    ) -> None:
        def per_sample(numbers: Sequence[int], dtype: torch.dtype) -> Tensor:
            repeated = [n for n in numbers for _ in range(points_per_level)]
            return torch.tensor(repeated, dtype=dtype, device=table.device)

        batch, heads, cells = table.shape[:3]
        self.sizes = sizes
        self.bordered = [(h + 2) * (w + 2) for h, w in sizes]
        x_last = per_sample([w - 1 for _, w in sizes], table.dtype)
        y_last = per_sample([h - 1 for h, _ in sizes], table.dtype)
        self.last = torch.stack((x_last, y_last))
        self.step = per_sample([w + 2 for _, w in sizes], torch.int32)
        one = torch.ones_like(self.step)
        self.corners = torch.stack((one - one, one, self.step, self.step + 1))
        first_cells = [
            sum(self.bordered[:level]) + (w + 2) + 1 for level, (_, w) in enumerate(sizes)
        ]
        tables = torch.arange(batch * heads, dtype=torch.int32, device=table.device) * cells
        self.origin = tables.view(batch, 1, heads, 1) + per_sample(first_cells, torch.int32)

    def cells(self, locations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the four cells around every point.

        Args:
            locations: (B, Q, M, L, P, 2).

        Returns:
            The row (B, Q, M, S) of the table with the upper left cell; how far the point is from
            there to the lower right one, (B, Q, M, 2, S) in 0 .. 1, for x and y; and whether the
            point moves it, (B, Q, M, 2, S) bool. Points outside of the border are drawn onto it.
        """
        position = (locations - 0.5).flatten(3, 4).transpose(-1, -2).contiguous()
        whole = position.floor()
        # Not a number becomes -1 here, and stays what it is in the fraction.
        cell = torch.minimum(whole, self.last).clamp_(min=-1).nan_to_num_(nan=-1)
        x, y = cell.int().unbind(-2)
        row = y * self.step + x + self.origin
        return row, position.sub_(cell).clamp_(0, 1), whole == cell

    def rows(self, row: Tensor) -> Tensor:
        """All four cells of every point: (B, Q, M, S) to (B * Q * M, 4 * S)."""
        return (row[..., None, :] + self.corners).flatten(-2).flatten(0, 2)


def _row_weights(fraction: Tensor, weights: Tensor) -> Tensor:
    """Weights (B, Q, M, 4, S) of the cells, from fractions (B, Q, M, 2, S) and (B, Q, M, L, P)."""
    x, y = torch.stack((1 - fraction, fraction), dim=-2).unbind(-3)
    y = y * weights.flatten(3)[..., None, :]
    return (y[..., :, None, :] * x[..., None, :, :]).flatten(-3, -2)


class _WeightedRows(torch.autograd.Function):
    """The sums over a bordered table; keeps only its inputs for the gradient.

    Rows and their weights are 48 numbers each for every head and query, and cheap to make again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        table: Tensor,
        locations: Tensor,
        weights: Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """(B, M, C, E), (B, Q, M, L, P, 2) and (B, Q, M, L, P) to (B, Q, M, E)."""
        ctx.save_for_backward(table, locations, weights)
        ctx.sizes = sizes
        layout = _Layout(table, sizes, locations.shape[4])
        all_rows = table.detach().flatten(0, 2)
        parts = []
        for points, of_points in _portions(locations, weights):
            row, fraction, _ = layout.cells(points)
            summed = F.embedding_bag(
                layout.rows(row),
                all_rows,
                per_sample_weights=_row_weights(fraction, of_points).flatten(-2).flatten(0, 2),
                mode="sum",
            )
            parts.append(summed.view(*row.shape[:3], -1))
        return torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of table, locations and weights."""
        table, locations, weights = ctx.saved_tensors
        layout = _Layout(table, ctx.sizes, locations.shape[4])
        first_rows, row_weights, of_locations, of_weights = [], [], [], []
        for points, of_points, of_sums in _portions(locations, weights, gradients[0]):
            row, fraction, inside = layout.cells(points)
            if ctx.needs_input_grad[0]:
                first_rows.append(row)
                row_weights.append(_row_weights(fraction, of_points))
            if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
                products = _row_products(of_sums, table, layout.rows(row))
                # One for each corner: (B, Q, M, 2, 2, S), with y before x.
                products = products.view(*row.shape[:3], 2, 2, -1)
                x, y = fraction[..., 0, :], fraction[..., 1, :]
                upper, lower = _interpolate(products[..., 0, :], products[..., 1, :], x)
                left, right = _interpolate(products[..., 0, :, :], products[..., 1, :, :], y)
                of_weights.append(torch.lerp(upper, lower, y).view_as(of_points))
                slope = torch.stack((right - left, lower - upper), dim=-2) * inside
                slope = (slope * of_points.flatten(3)[..., None, :]).transpose(-1, -2)
                of_locations.append(slope.reshape(points.shape))
        of_table = None
        if first_rows:
            row = torch.cat(first_rows, dim=1)
            of_table = _table_gradient(gradients[0], table, layout, row, torch.cat(row_weights, 1))
        if not of_weights:
            return of_table, None, None, None
        return of_table, torch.cat(of_locations, dim=1), torch.cat(of_weights, dim=1), None


def _portions(locations: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors (B, Q, ...) into portions of queries, for small intermediate results."""
    batch, _, heads, levels, points, _ = locations.shape
    size = max(PORTION // (4 * batch * heads * levels * points), 1)
    return zip(*(x.split(size, dim=1) for x in (locations, *others)), strict=True)


def _interpolate(start: Tensor, end: Tensor, fraction: Tensor) -> tuple[Tensor, ...]:
    """Both lines from start to end, (B, Q, M, 2, S) each, at the fraction (B, Q, M, S)."""
    return torch.lerp(start, end, fraction[..., None, :]).unbind(-2)


def _row_products(of_sums: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """Dot products of the gradient of every sum with the rows it is made of: the shape of rows."""
    sums, per_sum = rows.shape
    number = torch.arange(sums, dtype=rows.dtype, device=rows.device)
    # The operator behind the gradient of `embedding_bag`: by autograd, which is public, the bags
    # themselves would be summed a second time.
    result: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        of_sums.flatten(0, 2).contiguous(),
        table.flatten(0, 2),
        rows.flatten(),
        number * per_sum,
        number[:, None].expand(-1, per_sum).flatten(),
        0,
    )
    return result


def _table_gradient(
    of_sums: Tensor, table: Tensor, layout: _Layout, row: Tensor, row_weights: Tensor
) -> Tensor:
    """Return the transposed sums, (B, M, C, E): for every cell of the samples that read it.

    ``embedding_bag`` itself scatters, several times slower. Here samples are sorted by the first of
    their four cells, and the sums of the other three are moved to where they belong.
    """
    of_sums = of_sums.flatten(0, 2).contiguous()
    in_order, sample = row.flatten().sort(stable=True)
    table_rows = torch.arange(table.shape[:3].numel(), dtype=row.dtype, device=row.device)
    starts = torch.searchsorted(in_order, table_rows)
    in_order = sample // row.shape[-1]
    row_weights = row_weights.transpose(-1, -2).reshape(-1, 4).index_select(0, sample)

    def of_corner(corner: int) -> tuple[Tensor, ...]:
        weights = row_weights[:, corner].contiguous()
        summed = F.embedding_bag(in_order, of_sums, starts, per_sample_weights=weights, mode="sum")
        result: tuple[Tensor, ...] = summed.view_as(table).split(layout.bordered, dim=2)
        return result

    total = of_corner(0)
    for corner in (1, 2, 3):
        for into, part, (_, width) in zip(total, of_corner(corner), layout.sizes, strict=True):
            shift = (0, 1, width + 2, width + 3)[corner]
            into[:, :, shift:] += part[:, :, :-shift]
    return torch.cat(total, dim=2)
