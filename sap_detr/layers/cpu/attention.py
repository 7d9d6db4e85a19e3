"""Attention on the CPU, a portion of the queries at a time.

For what ``scaled_dot_product_attention`` has no kernel for there: dropout, keys that all heads
share, and gradients of a bias. Attention weights of all queries at once would not fit into the
caches, and reading and writing them again and again takes longer than the products; those of a
portion do. They are not kept for the gradient but computed again, except where a single portion
holds all queries of an image. Of dropout, a byte per weight is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..axis_bias import AxisBias
from .dropout import draw_dropped, scale_of_kept
from .linear import linear_as_convolution, suits_convolution

# A portion has about this many attention weights.
PORTION = 2**22


def portioned_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    bias: AxisBias | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention. Cannot be differentiated twice.

    Args:
        query: (B, M, Q, E), already scaled. The batch of this and all others may also be 1.
        key: (B, M, N, E), or (B, 1, N, E) for keys that all heads share.
        value: (B, M, N, V).
        key_padding_mask: (B, N) bool, True on tokens that must not be attended to, or None.
        bias: added to the dot products, or None.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, M, Q, V).
    """
    batch = max(len(query), len(key), len(value))
    query, key, value = (x.expand(batch, -1, -1, -1) for x in (query, key, value))
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask.expand(batch, -1)
    axes: tuple[Tensor | None, Tensor | None] = (None, None)
    if bias is not None:
        axes = (bias.x.expand(*query.shape[:3], -1), bias.y.expand(*query.shape[:3], -1))
    result: Tensor = _PortionedAttention.apply(query, key, value, *axes, key_padding_mask, dropout)
    return result


@dataclass(frozen=True)
class _Portion:
    """Some queries of one image.

    Attributes:
        image: index of the image.
        rows: of which queries.
        whole: whether these are all of the image's.
    """

    image: int
    rows: slice
    whole: bool

    def of(self, x: Tensor) -> Tensor:
        """Return the portion's part (M, r, ...) of (B, M, Q, ...)."""
        return x[self.image, :, self.rows]

    def drop(self, weights: Tensor, dropped: Tensor) -> Tensor:
        """Zeroes weights; in place, unless they may be kept for the gradient."""
        return weights.masked_fill(dropped, 0) if self.whole else weights.masked_fill_(dropped, 0)


def _portions(query: Tensor, num_keys: int) -> Iterator[_Portion]:
    images, heads, queries = query.shape[:3]
    rows = max(PORTION // max(heads * num_keys, 1), 1)
    for image in range(images):
        for start in range(0, queries, rows):
            yield _Portion(image, slice(start, start + rows), rows >= queries)


class _PortionedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        x_term: Tensor | None,
        y_term: Tensor | None,
        padding: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """See :func:`portioned_attention`."""
        attended = query.new_empty(*query.shape[:3], value.shape[-1])
        kept, dropped = [], []
        for portion in _portions(query, key.shape[2]):
            weights = _weights(portion, query, key, x_term, y_term, padding)
            if portion.whole and any(ctx.needs_input_grad):
                kept.append(weights)
            if dropout:
                dropped.append(draw_dropped(weights.shape, dropout, weights.device))
                weights = portion.drop(weights, dropped[-1])
            portion.of(attended).copy_(weights @ value[portion.image])
        if dropout:
            attended *= scale_of_kept(dropout)
        tensors = (query, key, value, x_term, y_term, padding, attended)
        ctx.save_for_backward(*tensors, *kept, *dropped)
        ctx.dropout = dropout
        ctx.num_kept = len(kept)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key, value, and the two terms of the bias."""
        with torch.autocast("cpu", enabled=False):
            return (*_gradients(ctx, gradients[0]), None, None)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    query, key, value, x_term, y_term, padding, attended, *others = ctx.saved_tensors
    kept, dropped = iter(others[: ctx.num_kept]), iter(others[ctx.num_kept :])
    # What the softmax takes off the gradient of every weight: its mean over the weights.
    mean = (gradient * attended).sum(-1, keepdim=True)
    of_attended = gradient * scale_of_kept(ctx.dropout)
    of_query = torch.empty_like(query)
    of_key, of_value = torch.zeros_like(key), torch.zeros_like(value)
    of_x, of_y = (None if term is None else torch.empty_like(term) for term in (x_term, y_term))
    shared = key.shape[1] != query.shape[1]
    for portion in _portions(query, key.shape[2]):
        image = portion.image
        if portion.whole:
            weights = next(kept)
        else:
            weights = _weights(portion, query, key, x_term, y_term, padding)
        of_sums = portion.of(of_attended)
        of_logits = of_sums @ value[image].transpose(1, 2)
        if ctx.dropout:
            mask = next(dropped)
            of_logits.masked_fill_(mask, 0)
        of_logits.sub_(portion.of(mean)).mul_(weights)
        if ctx.dropout:
            weights = portion.drop(weights, mask)
        of_value[image].baddbmm_(weights.transpose(1, 2), of_sums)
        if of_x is not None and of_y is not None:
            on_map = of_logits.unflatten(-1, (of_y.shape[-1], of_x.shape[-1]))
            torch.sum(on_map, dim=-2, out=portion.of(of_x))
            torch.sum(on_map, dim=-1, out=portion.of(of_y))
        queries = portion.of(query)
        if shared:
            of_query_here = (of_logits.flatten(0, 1) @ key[image, 0]).view_as(queries)
            of_key[image, 0].addmm_(of_logits.flatten(0, 1).T, queries.flatten(0, 1))
        else:
            of_query_here = of_logits @ key[image]
            of_key[image].baddbmm_(of_logits.transpose(1, 2), queries)
        portion.of(of_query).copy_(of_query_here)
    return of_query, of_key, of_value, of_x, of_y


def _weights(
    portion: _Portion,
    query: Tensor,
    key: Tensor,
    x_term: Tensor | None,
    y_term: Tensor | None,
    padding: Tensor | None,
) -> Tensor:
    """Return the attention weights (M, r, N) of a portion, before dropout."""
    queries, keys = portion.of(query), key[portion.image]
    if len(keys) == len(queries):
        logits = queries @ keys.transpose(1, 2)
    else:
        product = linear_as_convolution if suits_convolution(queries, keys[0]) else F.linear
        logits = product(queries, keys[0])
    if x_term is not None and y_term is not None:
        on_map = logits.unflatten(-1, (y_term.shape[-1], x_term.shape[-1]))
        on_map += portion.of(y_term)[..., :, None]
        on_map += portion.of(x_term)[..., None, :]
    if padding is not None:
        logits.masked_fill_(padding[portion.image], -torch.inf)
    return torch.softmax(logits, dim=-1, out=logits)
