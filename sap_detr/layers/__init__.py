"""Tensors in, tensors out: building blocks that know nothing of detection."""

from .attention import (
    MultiheadAttention,
    PositionedSelfAttention,
    attention,
    split_heads,
)
from .axis_bias import AxisBias
from .cpu import exporting
from .deformable_attention import DeformableAttention, deformable_attention
from .dropout import Dropout, dropout, relu_dropout
from .folded_conv import fold_frozen_norms
from .gaussian import GAUSSIAN_FORMS, gaussian_attention, point_towards_sides
from .mlp import MLP, FeedForward, Linear, linear, linear_side_by_side, xavier_init_matrices
from .normalization import masked_group_norm
from .position_encoding import SinePositionEncoding, encode_points, sine_encoding
from .precision import full_precision, full_precision_dtype
from .resize import resize_pixels
from .roi_pooling import interpolation_weights, point_weights, roi_align, sample_regions

__all__ = [
    "GAUSSIAN_FORMS",
    "MLP",
    "AxisBias",
    "DeformableAttention",
    "Dropout",
    "FeedForward",
    "Linear",
    "MultiheadAttention",
    "PositionedSelfAttention",
    "SinePositionEncoding",
    "attention",
    "deformable_attention",
    "dropout",
    "encode_points",
    "exporting",
    "fold_frozen_norms",
    "full_precision",
    "full_precision_dtype",
    "gaussian_attention",
    "interpolation_weights",
    "linear",
    "linear_side_by_side",
    "masked_group_norm",
    "point_towards_sides",
    "point_weights",
    "relu_dropout",
    "resize_pixels",
    "roi_align",
    "sample_regions",
    "sine_encoding",
    "split_heads",
    "xavier_init_matrices",
]
