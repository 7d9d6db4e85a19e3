"""SAP-DETR's cross-attention: content, point and sides, with a side-directed Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...layers import MLP, Linear, point_towards_sides, split_heads
from .layer import Comparison, LayerMemory, MemoryAttention, split_gaussian


@dataclass(frozen=True)
class QueryPosition:
    """Where the queries are, for one decoder layer. The batch may be 1 if it is so for all images.

    Attributes:
        points: (B, Q, 2), (x, y) as fractions of the image.
        sides: (B, Q, 4), distances from the point to left, top, right and bottom, in fractions.
        point_embed: (B, Q, D), learned embedding of the points.
        sides_embed: (B, Q, D), learned embedding of the corners.
        point_sine: (B, Q, D), sine encoding of the points, scaled by the content.
        sides_sine: (B, Q, 2D), sine encoding of the corners, scaled by the content.
    """

    points: Tensor
    sides: Tensor
    point_embed: Tensor
    sides_embed: Tensor
    point_sine: Tensor
    sides_sine: Tensor


class PointCrossAttention(MemoryAttention):
    """Cross-attention that compares content, point and sides, with a side-directed Gaussian.

    In every head the query is [content, point, sides] and the key [content, position, position],
    whence the scale ``(3 * E) ** -0.5``. Computed with two thirds of that width: point and sides
    meet the same key, so they are added up first.

    Args:
        embed_dim: width D.
        num_heads: attention heads M.
        dropout: probability of dropping an attention weight.
        gaussian: whether there is a Gaussian.
        gaussian_form: see :func:`sap_detr.layers.gaussian_attention`.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float, gaussian: bool, gaussian_form: str
    ) -> None:
        super().__init__(num_heads, dropout, gaussian_form)
        self.query_content = Linear(embed_dim, embed_dim)
        self.query_point_sine = Linear(embed_dim, embed_dim)
        self.query_sides_sine = Linear(2 * embed_dim, embed_dim)
        self.key_content = Linear(embed_dim, embed_dim)
        self.key_position = Linear(embed_dim, embed_dim)
        self.value = Linear(embed_dim, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)
        nn.init.zeros_(self.out_proj.bias)
        self.gaussian_head = MLP(embed_dim, embed_dim, 4 * num_heads, 3) if gaussian else None

    def compare(
        self,
        content: Tensor,
        position: QueryPosition,
        memory: LayerMemory,
        shared_query: Tensor | None,
    ) -> Comparison:
        """Return queries, and the keys to compare them with.

        Args:
            content: (B, Q, D).
            position: of the queries.
            memory: projected by this layer's ``value``, its keys by ``key_content`` and
                ``key_position``.
            shared_query: (B or 1, Q, D), added to the content query, while the content key has the
                position key added; or None for neither.
        """
        batch, heads = content.shape[0], self.num_heads
        query = self.query_content(content)
        position_query = self.query_point_sine(position.point_sine)
        position_query = position_query + self.query_sides_sine(position.sides_sine)
        if shared_query is not None:
            # (k + p) . q + p . u = k . q + p . (q + u), so the content key can stay as it is.
            query = query + shared_query
            position_query = position_query + query
        queries = torch.cat(
            [split_heads(x.expand(batch, -1, -1), heads) for x in (query, position_query)], dim=-1
        )
        keys = torch.cat([split_heads(x.expand(batch, -1, -1), heads) for x in memory.keys], dim=-1)
        return Comparison(
            queries,
            keys,
            memory,
            self.gaussian(content, position),
            scale=(3 * content.shape[-1] // heads) ** -0.5,
        )

    def gaussian(self, content: Tensor, position: QueryPosition) -> tuple[Tensor, Tensor] | None:
        """Centres in fractions of the image and sharpnesses, (B, M, Q, 2) each; None for none."""
        if self.gaussian_head is None:
            return None
        offset, sharpness = split_gaussian(self.gaussian_head(content), self.num_heads)
        points, sides = position.points[:, None], position.sides[:, None]
        return point_towards_sides(points, sides, offset.tanh()), sharpness
