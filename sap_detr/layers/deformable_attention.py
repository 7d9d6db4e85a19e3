"""Multi-scale deformable attention (Deformable DETR, Zhu et al., ICLR 2021), in two equal forms.

Every head of every query reads a few points of each level of a feature pyramid, bilinearly, and
sums them with weights of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cpu import cpu_form_applies
from .cpu.deformable_attention import sums_of_rows
from .gaussian import point_towards_sides
from .mlp import Linear, linear_side_by_side
from .precision import full_precision


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
    applies = cpu_form_applies(value, compiled=True, autocast=True)
    if form == "rows" or (form is None and applies):
        return sums_of_rows(value, sizes, locations, weights)
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
            torch.stack((x / width * 2 - 1, y / height * 2 - 1), dim=-1),
            padding_mode="zeros",
            align_corners=False,
        )
        summed = summed + (samples * of_points[:, None]).sum(-1)
    result: Tensor = summed.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)
    return result


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
        self.sampling_offsets = Linear(embed_dim, 2 * samples)
        self.attention_weights = Linear(embed_dim, samples)
        self.value_proj = Linear(embed_dim, embed_dim)
        self.output_proj = Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published.

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
        """Read ``value`` around the reference points, at distances in cells.

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
        value = self.value_proj(value)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0)
        return self.read(value, sizes, *self.samples(query, reference_points))

    def samples(
        self,
        query: Tensor,
        reference_points: Tensor,
        sides: Tensor | None = None,
        gaussian: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return where to read, and what that weighs.

        Args:
            query: (B, Q, D).
            reference_points: (B or 1, Q, L, 2), see :meth:`forward`.
            sides: (B or 1, Q, L, 4), distances from the reference point to left, top, right and
                bottom of a box, in cells of each level. An offset of P, the number of points, leads
                to the side in its direction (DINO, SAP-DINO-DETR). None: offsets are in cells.
            gaussian: which offset, in units of P, a head prefers, and how sharply, (B, M, Q, 2)
                each; lowers the attention logit of a point by an eighth of the squared distance
                times the squared sharpness. None for no preference.

        Returns:
            Locations (B, Q, M, L, P, 2) in cells, and weights (B, Q, M, L, P).
        """
        offsets, logits = linear_side_by_side(
            query, (self.sampling_offsets, self.attention_weights)
        )
        shape = (self.num_heads, self.num_levels, self.num_points)
        offsets = full_precision(offsets).unflatten(-1, (*shape, 2))
        logits = full_precision(logits).unflatten(-1, (shape[0], -1))
        if gaussian is not None:
            centre, sharpness = (x.transpose(1, 2)[..., None, None, :] for x in gaussian)
            distance = sharpness * (offsets - self.num_points * centre)
            logits = logits - distance.square().sum(-1).flatten(-2) / 8
        points = reference_points[:, :, None, :, None]
        if sides is None:
            locations = points + offsets
        else:
            sides = sides[:, :, None, :, None]
            locations = point_towards_sides(points, sides, offsets / self.num_points)
        return locations, _softmax(logits).unflatten(-1, shape[1:])

    def read(
        self, value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
    ) -> Tensor:
        """Read a value that has gone through ``value_proj`` and is 0 on padding: (B, Q, D).

        Args:
            value: (B, N, D).
            sizes: (H, W) of every level.
            locations, weights: what :meth:`samples` returned.
        """
        summed = deformable_attention(value, sizes, locations, weights)
        result: Tensor = self.output_proj(summed)
        return result
