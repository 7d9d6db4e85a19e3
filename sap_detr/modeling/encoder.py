"""The transformer encoder: mixes a feature map into a memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from ..layers import MLP, Dropout, FeedForward, MultiheadAttention, xavier_init_matrices
from .structures import FeatureMap, single_level


class PostNormEncoderLayer(nn.Module):
    """What encoder layers share: their modules, and all that follows the attention.

    Args:
        self_attn: the self-attention of the tokens.
        embed_dim: width D of the tokens.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability of the feed-forward network and of what is added to the tokens.
    """

    def __init__(self, self_attn: nn.Module, embed_dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.ffn = FeedForward(embed_dim, ffn_dim, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.dropout = Dropout(dropout)

    def finish(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Add what the attention read, then the feed-forward network: (B, N, D) each."""
        tokens = self.norm1(tokens + self.dropout(attended))
        result: Tensor = self.norm2(tokens + self.dropout(self.ffn(tokens)))
        return result


class TransformerEncoderLayer(PostNormEncoderLayer):
    """Self-attention and a feed-forward network, each followed by its normalisation.

    Args:
        embed_dim: width D of the tokens.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability in all three places.
        scale_position: multiply the position encoding with a function of the token (SAP-DETR).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        scale_position: bool = False,
    ) -> None:
        position_scale = (
            MLP(embed_dim, embed_dim, embed_dim, num_layers=2) if scale_position else None
        )
        self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        super().__init__(self_attn, embed_dim, ffn_dim, dropout)
        self.position_scale = position_scale

    def forward(self, tokens: Tensor, position: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D).

        Args:
            tokens: (B, N, D).
            position: (B or 1, N, D), added to queries and keys but not to values.
            padding_mask: (B, N) bool or None. Padding is not attended to, but padded tokens are
                computed like any others.
        """
        if self.position_scale is not None:
            position = position * self.position_scale(tokens)
        query = tokens + position
        return self.finish(tokens, self.self_attn(query, query, tokens, padding_mask))


class TransformerEncoder(nn.Module):
    """DETR's encoder over a single level, without a final normalisation.

    Args:
        num_layers: number of layers; 0 passes the features on as they are.
        embed_dim, num_heads, ffn_dim, dropout, scale_position: see
            :class:`TransformerEncoderLayer`.
    """

    def __init__(
        self,
        num_layers: int = 6,
        embed_dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        scale_position: bool = False,
    ) -> None:
        super().__init__()
        layer = TransformerEncoderLayer(embed_dim, num_heads, ffn_dim, dropout, scale_position)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        xavier_init_matrices(self)

    def forward(self, maps: Sequence[FeatureMap]) -> list[FeatureMap]:
        """Return the memory: the same levels, with mixed features.

        Raises:
            ValueError: if there is more than one level.
        """
        level = single_level(maps)
        tokens, position, mask = level.tokens, level.token_position, level.token_padding_mask
        for layer in self.layers:
            tokens = layer(tokens, position, mask)
        return [level.with_tokens(tokens)]
