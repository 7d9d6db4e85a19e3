"""Multi-scale deformable attention (Deformable DETR, Zhu et al., ICLR 2021), in two equal forms.

Every head of every query reads a few points of each level of a feature pyramid, bilinearly, and
sums them with weights of its own. The points are not on the grid; so a read is a weighted sum of
four cells, and all of a head's reads together are one weighted sum of rows of a table. Written that
way the CPU does it several times faster than by sampling maps, and next to nothing has to be kept
for the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .mlp import Linear, linear_side_by_side
from .precision import full_precision

# Queries are taken in portions whose intermediate results have about this many numbers.
PORTION = 1_000_000


def deformable_attention(
    value: Tensor,
    sizes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    form: str | None = None,
) -> Tensor:
    """Weighted sums of bilinear samples of maps, which count as 0 outside.

    Computed in full precision whatever the dtype of the inputs, because cells and the fractions
    between them need more digits than half precision has. Cannot be differentiated twice.

    Args:
        value: (B, N, D), the cells of all levels, level by level and row by row; the channels are
            those of the M heads side by side.
        sizes: (H, W) of every level; N is the sum of all H * W.
        locations: (B, Q, M, L, P, 2), (x, y) in cells of each level; the middle of the first cell
            is at 0.5.
        weights: (B, Q, M, L, P).
        form: "rows" sums rows of a table, "sampled" is made of ``grid_sample``. By default the
            former on the CPU and the latter elsewhere.

    Returns:
        (B, Q, D) in full precision, the heads side by side.
    """
    value, locations, weights = (full_precision(x) for x in (value, locations, weights))
    value = value.unflatten(-1, (locations.shape[2], -1))
    # The meta device computes nothing and stands for the CPU. Tracers, such as that of Detectron2's
    # FlopCountAnalysis, follow no autograd function of Python.
    rows = value.device.type in ("cpu", "meta") and not torch.jit.is_tracing()
    if form == "rows" or (form is None and rows):
        summed = _WeightedRows.apply(_bordered(value, sizes), locations, weights, sizes)
        return summed.flatten(2)
    return _sampled(value, sizes, locations, weights)


def _sampled(
    value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """:func:`deformable_attention` of a value (B, N, M, E), level by level."""
    batch, _, heads = locations.shape[:3]
    summed = value.new_zeros(())
    for level, (height, width), points, of_points in zip(
        value.split([h * w for h, w in sizes], dim=1),
        sizes,
        locations.transpose(1, 2).flatten(0, 1).unbind(2),
        weights.transpose(1, 2).flatten(0, 1).unbind(2),
        strict=True,
    ):
        x, y = points.unbind(-1)
        samples = F.grid_sample(
            level.permute(0, 2, 3, 1).reshape(batch * heads, -1, height, width),
            torch.stack((2 / width * x - 1, 2 / height * y - 1), dim=-1),
            padding_mode="zeros",
            align_corners=False,
        )
        summed = summed + (samples * of_points[:, None]).sum(-1)
    return summed.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)


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
        """Finds the four cells around every point.

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
        """The gradients of table, locations and weights."""
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
    """Splits tensors (B, Q, ...) into portions of queries, for small intermediate results."""
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
    # The operator behind the gradient of `embedding_bag`, without a second run of that.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        of_sums.flatten(0, 2).contiguous(),
        table.flatten(0, 2),
        rows.flatten(),
        number * per_sum,
        number[:, None].expand(-1, per_sum).flatten(),
        0,
    )


def _table_gradient(
    of_sums: Tensor, table: Tensor, layout: _Layout, row: Tensor, row_weights: Tensor
) -> Tensor:
    """The transposed sums, (B, M, C, E): for every cell of the samples that read it.

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
        return summed.view_as(table).split(layout.bordered, dim=2)

    total = of_corner(0)
    for corner in (1, 2, 3):
        for into, part, (_, width) in zip(total, of_corner(corner), layout.sizes, strict=True):
            shift = (0, 1, width + 2, width + 3)[corner]
            into[:, :, shift:] += part[:, :, :-shift]
    return torch.cat(total, dim=2)


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension, much faster on the CPU where that is as short as here."""
    weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


class DeformableAttention(nn.Module):
    """Attention to a few points around a reference point on every level.

    Where the points are, relative to the reference point, and what they weigh is predicted from the
    query; keys there are none. Parameter names and layout are the published ones.

    Args:
        embed_dim: width D of queries and values.
        num_heads: number of heads M; divides D.
        num_levels: number of levels L.
        num_points: points P of a head on each level.

    Raises:
        ValueError: if ``num_heads`` does not divide ``embed_dim``.
    """

    def __init__(self, embed_dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim={embed_dim} is not a multiple of num_heads={num_heads}: "
                "every head needs the same number of channels"
            )
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = Linear(embed_dim, embed_dim)
        self.output_proj = Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises as published.

        At first a head's points lie in one direction, on squares around the reference point, at 1
        to P cells from it; all weigh the same, whatever the query.
        """
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        for linear in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(linear.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
        bias = self.sampling_offsets.bias
        angle = torch.arange(self.num_heads, dtype=bias.dtype, device=bias.device)
        angle = angle * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1, dtype=bias.dtype, device=bias.device)
        offsets = direction[:, None, None] * distance[:, None]
        with torch.no_grad():
            bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        sizes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Reads ``value`` around the reference points.

        Args:
            query: (B, Q, D).
            reference_points: (B or 1, Q, L, 2), (x, y) in cells of each level, in full precision;
                the middle of the first cell is at 0.5.
            value: (B, N, D), the cells of all levels, level by level and row by row.
            sizes: (H, W) of every level.
            padding_mask: (B, N) bool, True on padding, which is read as 0; or None.

        Returns:
            (B, Q, D).
        """
        offsets, logits = linear_side_by_side(
            query, (self.sampling_offsets, self.attention_weights)
        )
        samples = (self.num_heads, self.num_levels, self.num_points)
        offsets = full_precision(offsets).unflatten(-1, (*samples, 2))
        locations = reference_points[:, :, None, :, None] + offsets
        logits = full_precision(logits).unflatten(-1, (samples[0], -1))
        weights = _softmax(logits).unflatten(-1, samples[1:])
        value = self.value_proj(value)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0)
        summed = deformable_attention(value, sizes, locations, weights)
        return self.output_proj(summed)
