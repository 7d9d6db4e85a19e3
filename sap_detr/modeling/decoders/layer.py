"""What the decoder layers of all methods share."""

from __future__ import annotations

from torch import Tensor, nn

from ...layers import Dropout, FeedForward


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
        """Adds what the self-attention returned to the content: (B, Q, D) each."""
        return self.norm1(content + self.dropout(attended))

    def finish(self, content: Tensor, attended: Tensor) -> Tensor:
        """Adds what was read from the memory, then the feed-forward network: (B, Q, D) each."""
        content = self.norm2(content + self.dropout(attended))
        return self.norm3(content + self.dropout(self.ffn(content)))
