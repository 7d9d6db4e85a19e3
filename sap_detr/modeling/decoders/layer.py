"""What the decoder layers of all methods share."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...layers import (
    GAUSSIAN_FORMS,
    Dropout,
    FeedForward,
    attention,
    full_precision,
    gaussian_attention,
    split_heads,
)

# The logit of 1 %, at which class heads start where scores are sigmoids.
RARE = -math.log(99)


class PostNormDecoderLayer(nn.Module):
    """The modules of a decoder layer, and all that follows its two attentions.

    Args:
        self_attn: the self-attention of the queries.
        cross_attn: the attention of the queries to the memory.
        embed_dim: width D of the queries.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability of the feed-forward network and of what is added to the
            content.
    """

    def __init__(
        self,
        self_attn: nn.Module,
        cross_attn: nn.Module,
        embed_dim: int,
        ffn_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.cross_attn = cross_attn
        self.ffn = FeedForward(embed_dim, ffn_dim, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)
        self.dropout = Dropout(dropout)

    def add_self_attention(self, content: Tensor, attended: Tensor) -> Tensor:
        """Add what the self-attention returned to the content: (B, Q, D) each."""
        result: Tensor = self.norm1(content + self.dropout(attended))
        return result

    def finish(self, content: Tensor, attended: Tensor) -> Tensor:
        """Add what was read from the memory, then the feed-forward network: (B, Q, D) each."""
        content = self.norm2(content + self.dropout(attended))
        result: Tensor = self.norm3(content + self.dropout(self.ffn(content)))
        return result


@dataclass(frozen=True)
class LayerMemory:
    """The memory as one layer's cross-attention reads it.

    Attributes:
        keys: (B or 1, N, D) each; several stand side by side in every head.
        value: (B, N, D).
        padding_mask: (B, N) bool, True on padding, or None.
        size: (H, W) of the map, with H * W = N.
        extent: (B or 1, 2), width and height in cells of what coordinates are fractions of.
    """

    keys: tuple[Tensor, ...]
    value: Tensor
    padding_mask: Tensor | None
    size: tuple[int, int]
    extent: Tensor


@dataclass(frozen=True)
class Comparison:
    """What a cross-attention compares the memory with.

    Attributes:
        query: (B, M, Q, E).
        key: (B, M, N, E), or (B, 1, N, E) for keys that all heads share.
        memory: gives all but the keys.
        gaussian: centres (B, M, Q, 2), (x, y) as fractions of the image, and sharpnesses
            (B, M, Q, 2) for x and y; None for no Gaussian.
        scale: factor of the dot products; None for ``E ** -0.5``.
        points: (B, M, Q, 2), what queries were made of, where that is the memory at some points,
            as fractions of the image; nothing is computed from it.
    """

    query: Tensor
    key: Tensor
    memory: LayerMemory
    gaussian: tuple[Tensor, Tensor] | None = None
    scale: float | None = None
    points: Tensor | None = None


class MemoryAttention(nn.Module, abc.ABC):
    """Reads the memory, with or without a Gaussian around a point of every head and query.

    Subclasses make queries and keys, and bring the projection of the result.

    Args:
        num_heads: attention heads M.
        dropout: probability of dropping an attention weight.
        gaussian_form: see :func:`sap_detr.layers.gaussian_attention`.

    Raises:
        ValueError: if ``gaussian_form`` is unknown.
    """

    out_proj: nn.Linear

    def __init__(self, num_heads: int, dropout: float, gaussian_form: str) -> None:
        super().__init__()
        if gaussian_form not in GAUSSIAN_FORMS:
            raise ValueError(
                f"gaussian_form must be one of {list(GAUSSIAN_FORMS)}, got {gaussian_form!r}"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.gaussian_form = gaussian_form

    @abc.abstractmethod
    def compare(self, *args: Any) -> Comparison:
        """Return queries, and the keys to compare them with."""

    def forward(self, *args: Any) -> Tensor:
        """Read the memory: (B, Q, D). The arguments are those of :meth:`compare`."""
        return self.read(self.compare(*args))

    def read(self, compared: Comparison) -> Tensor:
        """Read the values of the memory where keys are like the queries: (B, Q, D)."""
        query, key, scale = compared.query, compared.key, compared.scale
        memory = compared.memory
        value, mask = split_heads(memory.value, self.num_heads), memory.padding_mask
        dropout = self.dropout if self.training else 0.0
        if compared.gaussian is None:
            attended = attention(
                query, key, value, key_padding_mask=mask, dropout=dropout, scale=scale
            )
        else:
            centre, sharpness = compared.gaussian
            attended = gaussian_attention(
                query,
                key,
                value,
                memory.extent[:, None, None] * centre,
                sharpness,
                memory.size,
                form=self.gaussian_form,
                key_padding_mask=mask,
                dropout=dropout,
                scale=scale,
            )
        result: Tensor = self.out_proj(attended)
        return result


def split_gaussian(x: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Split (B, Q, 4M) into offsets and sharpnesses, (B, M, Q, 2) each, in full precision."""
    offset, sharpness = full_precision(x).unflatten(-1, (2, num_heads, 2)).unbind(2)
    return offset.transpose(1, 2), sharpness.transpose(1, 2)
