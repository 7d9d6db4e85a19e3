"""Multi-head attention, in one function for all methods."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .axis_bias import AxisBias
from .cpu import cpu_form_applies
from .cpu.attention import portioned_attention
from .cpu.dropout import can_draw
from .dropout import dropout as drop
from .mlp import Linear, linear, linear_side_by_side


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, M * E) to (B, M, T, E); a view."""
    result: Tensor = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return result


def merge_heads(x: Tensor) -> Tensor:
    """(B, M, T, E) to (B, T, M * E)."""
    return x.transpose(1, 2).flatten(2)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    allowed: Tensor | None = None,
    bias: AxisBias | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention over heads.

    Args:
        query: (B, M, Q, E).
        key: (B, M, N, E), or (B, 1, N, E) for keys that all heads share.
        value: (B, M, N, V); V may differ from E.
        key_padding_mask: (B, N) bool, True on tokens that must not be attended to, or None.
            Every image needs at least one token that is not padding.
        allowed: (B or 1, 1, Q, N) bool, False where a query must not attend to a key; or None. Not
            together with the others.
        bias: added to the scaled dot products, in their dtype; or None. Then N = H * W.
        dropout: probability of dropping an attention weight; pass 0 outside training.
        scale: factor of the dot products; ``E ** -0.5`` by default.

    Returns:
        (B, Q, M * V), the heads side by side.
    """
    without_kernel = dropout > 0 or key.shape[1] != query.shape[1] or _needs_gradient(bias)
    drawable = dropout == 0 or can_draw(dropout)
    if without_kernel and drawable and allowed is None and cpu_form_applies(query):
        query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
        return merge_heads(portioned_attention(query, key, value, key_padding_mask, bias, dropout))
    mask = allowed if bias is None else bias.full()
    if key_padding_mask is not None:
        padded = key_padding_mask[:, None, None, :]
        mask = ~padded if mask is None else mask.masked_fill(padded, -torch.inf)
    if without_kernel and not query.is_cuda:
        return merge_heads(_written_out(query, key, value, mask, dropout, scale))
    key = key.expand(-1, query.shape[1], -1, -1)
    return merge_heads(
        F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale
        )
    )


def _needs_gradient(bias: AxisBias | None) -> bool:
    if bias is None or not torch.is_grad_enabled():
        return False
    return bias.x.requires_grad or bias.y.requires_grad


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    scale: float | None,
) -> Tensor:
    """Attention step by step: what :func:`portioned_attention` does, for compilers and autocast.

    One product compares the queries of all heads with keys that they share.
    """
    num_heads = query.shape[1]
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    if key.shape[1] == num_heads:
        logits = query @ key.transpose(2, 3)
    else:
        logits = torch.bmm(query.flatten(1, 2), key[:, 0].transpose(1, 2))
        logits = logits.unflatten(1, (num_heads, -1))
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        logits = logits + mask
    return drop(logits.softmax(-1), dropout_p) @ value


class PositionedSelfAttention(nn.Module):
    """Self-attention whose queries and keys are sums of projections of content and positions.

    Args:
        embed_dim: width D.
        num_heads: attention heads.
        dropout: probability of dropping an attention weight.
        num_positions: number of position embeddings.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float, num_positions: int = 1
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout

        def square() -> Linear:
            return Linear(embed_dim, embed_dim)

        self.query_content = square()
        self.query_positions = nn.ModuleList(square() for _ in range(num_positions))
        self.key_content = square()
        self.key_positions = nn.ModuleList(square() for _ in range(num_positions))
        self.value = square()
        self.out_proj = square()
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, content: Tensor, *positions: Tensor, groups: int = 1) -> Tensor:
        """Map content (B, Q, D) to (B, Q, D).

        Args:
            content: (B, Q, D).
            positions: (B or 1, Q, D) each, as many as there are projections.
            groups: number of groups of Q / groups queries, group after group, that do not see each
                other (Group DETR).
        """
        query, key, value = linear_side_by_side(
            content, (self.query_content, self.key_content, self.value)
        )
        for position, to_query, to_key in zip(
            positions, self.query_positions, self.key_positions, strict=True
        ):
            of_query, of_key = linear_side_by_side(
                position, (cast(nn.Linear, to_query), cast(nn.Linear, to_key))
            )
            query, key = query + of_query, key + of_key
        # A group is one more image: no mask, and no attention weight that counts for nothing.
        query, key, value = (
            split_heads(x.unflatten(1, (groups, -1)).flatten(0, 1), self.num_heads)
            for x in (query, key, value)
        )
        attended = attention(query, key, value, dropout=self.dropout if self.training else 0.0)
        result: Tensor = self.out_proj(attended.unflatten(0, (-1, groups)).flatten(1, 2))
        return result


class MultiheadAttention(nn.Module):
    """Multi-head attention with packed input projections, batch first.

    Parameter names and layout are those of :class:`torch.nn.MultiheadAttention` (rows of
    ``in_proj_weight``: query, key, value), so that published weights map one to one.

    Args:
        embed_dim: width D of queries, keys and values.
        num_heads: number of heads M; divides D.
        dropout: probability of dropping an attention weight while training.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim={embed_dim} is not a multiple of num_heads={num_heads}: "
                "every head needs the same number of channels"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Attends from ``query`` to ``key`` and reads ``value``.

        Args:
            query: (B, Q, D).
            key: (B, N, D). Passing the same object as ``query`` shares one product for both.
            value: (B, N, D).
            key_padding_mask: (B, N) bool, True on padding, or None.
            allowed: (B or 1, 1, Q, N) bool, see :func:`attention`; or None.

        Returns:
            (B, Q, D).
        """
        w_query, w_key, w_value = self.in_proj_weight.chunk(3)
        b_query, b_key, b_value = self.in_proj_bias.chunk(3)
        if query is key:
            rows = 2 * w_query.shape[0]
            packed = linear(query, self.in_proj_weight[:rows], self.in_proj_bias[:rows])
            q, k = packed.chunk(2, dim=-1)
        else:
            q, k = linear(query, w_query, b_query), linear(key, w_key, b_key)
        v = linear(value, w_value, b_value)
        attended = attention(
            split_heads(q, self.num_heads),
            split_heads(k, self.num_heads),
            split_heads(v, self.num_heads),
            key_padding_mask=key_padding_mask,
            allowed=allowed,
            dropout=self.dropout if self.training else 0.0,
        )
        result: Tensor = self.out_proj(attended)
        return result
