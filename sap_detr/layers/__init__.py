"""Tensors in, tensors out: building blocks that know nothing of detection."""

from .attention import MultiheadAttention, attention, merge_heads, split_heads
from .mlp import MLP, FeedForward, xavier_init_matrices
from .position_encoding import SinePositionEncoding, sine_encoding
from .precision import full_precision, full_precision_dtype

__all__ = [
    "MLP",
    "FeedForward",
    "MultiheadAttention",
    "SinePositionEncoding",
    "attention",
    "full_precision",
    "full_precision_dtype",
    "merge_heads",
    "sine_encoding",
    "split_heads",
    "xavier_init_matrices",
]
