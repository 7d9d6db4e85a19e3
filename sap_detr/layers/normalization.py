"""Normalisation of padded feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .precision import full_precision


def masked_group_norm(x: Tensor, norm: nn.GroupNorm, padding_mask: Tensor) -> Tensor:
    """Group normalisation with the statistics of the cells that are not padding.

    Args:
        x: (B, D, H, W).
        norm: gives groups, weight, bias and eps.
        padding_mask: (B, H, W) bool, True on padding. Every image needs a cell that is not.

    Returns:
        (B, D, H, W), zero on padding.
    """
    valid = (~padding_mask)[:, None]
    groups = full_precision(x).masked_fill(~valid, 0).unflatten(1, (norm.num_groups, -1))
    count = groups.shape[2] * valid.sum((2, 3))[..., None, None, None]
    mean = groups.sum((2, 3, 4), keepdim=True) / count
    centred = (groups - mean) * valid[:, None]
    variance = centred.square().sum((2, 3, 4), keepdim=True) / count
    normalised = (centred * torch.rsqrt(variance + norm.eps)).flatten(1, 2)
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    result: Tensor = ((normalised * weight + bias) * valid).to(x.dtype)
    return result
