"""Tensors in, tensors out: building blocks that know nothing of detection."""

from .attention import MultiheadAttention, attention, merge_heads, split_heads
from .gaussian import (
    GAUSSIAN_FORMS,
    check_gaussian_form,
    gaussian_attention,
    gaussian_axes,
    gaussian_bias,
    gaussian_features,
)
from .mlp import MLP, FeedForward, linear_side_by_side, xavier_init_matrices
from .normalization import masked_group_norm
from .position_encoding import SinePositionEncoding, sine_encoding
from .precision import full_precision, full_precision_dtype

__all__ = [
    "GAUSSIAN_FORMS",
    "MLP",
    "FeedForward",
    "MultiheadAttention",
    "SinePositionEncoding",
    "attention",
    "check_gaussian_form",
    "full_precision",
    "full_precision_dtype",
    "gaussian_attention",
    "gaussian_axes",
    "gaussian_bias",
    "gaussian_features",
    "linear_side_by_side",
    "masked_group_norm",
    "merge_heads",
    "sine_encoding",
    "split_heads",
    "xavier_init_matrices",
]
