"""DETR's decoder: learned queries that read the memory layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...layers import (
    MLP,
    MultiheadAttention,
    full_precision,
    xavier_init_matrices,
)
from ..structures import FeatureMap, Predictions, single_level
from .layer import PostNormDecoderLayer


class DetrDecoderLayer(PostNormDecoderLayer):
    """Self-attention of the queries, cross-attention to the memory, feed-forward network.

    Args:
        embed_dim: width D of queries and memory.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward network.
        dropout: dropout probability everywhere.
    """

    def __init__(self, embed_dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        cross_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        super().__init__(self_attn, cross_attn, embed_dim, ffn_dim, dropout)

    def forward(
        self,
        content: Tensor,
        query_position: Tensor,
        key: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Map content (B, Q, D) to (B, Q, D).

        Args:
            content: (B, Q, D), what the queries have read so far.
            query_position: (1, Q, D), the learned queries.
            key: (B, N, D), memory plus its position encoding.
            memory: (B, N, D).
            padding_mask: (B, N) bool or None.
        """
        query = content + query_position
        content = self.add_self_attention(content, self.self_attn(query, query, content))
        query = content + query_position
        return self.finish(content, self.cross_attn(query, key, memory, padding_mask))


class DetrDecoder(nn.Module):
    """DETR's decoder with the heads that all its layers share.

    The content of the queries starts at zero, so the first self-attention has only zeros as
    values: it returns the same for all queries and its packed projection gets a zero gradient.

    Args:
        num_classes: number of object classes C; "no object" is one more, the last.
        num_queries: number of queries Q.
        num_layers: number of layers L.
        embed_dim: width D of queries and memory.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward networks.
        dropout: dropout probability.
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int = 100,
        num_layers: int = 6,
        embed_dim: int = 256,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        layer = DetrDecoderLayer(embed_dim, num_heads, ffn_dim, dropout)
        # Copies, as published: biases start equal in all layers, matrices are drawn anew below.
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        xavier_init_matrices(self)
        self.norm = nn.LayerNorm(embed_dim)
        self.query_embed = nn.Embedding(num_queries, embed_dim)
        self.class_head = nn.Linear(embed_dim, num_classes + 1)
        self.box_head = MLP(embed_dim, embed_dim, 4, num_layers=3)

    def forward(self, memory: Sequence[FeatureMap], all_layers: bool = True) -> Predictions:
        """Decode one batch.

        Args:
            memory: a single level, as the encoder returns it.
            all_layers: False computes the heads of the last layer only, all that inference needs.

        Returns:
            Predictions of all layers, or of the last one with L = 1.
        """
        level = single_level(memory)
        tokens, mask = level.tokens, level.token_padding_mask
        key = tokens + level.token_position
        query_position = self.query_embed.weight[None]
        content = torch.zeros_like(query_position).expand(tokens.shape[0], -1, -1)
        outputs = []
        for layer in self.layers:
            content = layer(content, query_position, key, tokens, mask)
            outputs.append(content)
        hidden = self.norm(torch.stack(outputs if all_layers else outputs[-1:]))
        return Predictions(
            logits=full_precision(self.class_head(hidden)),
            boxes=full_precision(self.box_head(hidden)).sigmoid(),
        )
