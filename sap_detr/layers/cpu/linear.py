"""Linear layers on the CPU: as convolutions, and a portion of the tokens at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# From about so many rows and multiplications on, convolutions are as fast as BLAS or faster.
MANY_ROWS = 256
MANY_PRODUCTS = 2**24

# So many tokens at a time have a hidden layer that fits into the caches.
MANY_TOKENS = 4096


def suits_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`linear_as_convolution` can multiply x (..., D) and weight (O, D), and fast."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() >= MANY_ROWS * x.shape[-1]
        and x.numel() * len(weight) >= MANY_PRODUCTS
        and torch.backends.mkldnn.is_available()
    )


def linear_as_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` as a 1x1 convolution.

    The convolution is oneDNN's, which uses the widest instructions of all processors. BLAS may not:
    the one that PyTorch comes with is about half as fast on some.

    Args:
        x: (..., D).
        weight: (O, D).
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    columns = x.reshape(1, -1, x.shape[-1]).transpose(1, 2).unsqueeze(2)
    # On one thread PyTorch leaves a convolution without dilation to BLAS, and no public switch
    # names oneDNN. On a single row the dilation has no other effect.
    result = F.conv2d(columns, weight[:, :, None, None], bias, dilation=(2, 1))
    return result.squeeze(2).transpose(1, 2).reshape(*x.shape[:-1], -1)


def in_portions(function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Apply a function of (..., N, D) that treats all tokens alike, some of them at a time."""
    if tokens.dim() < 2 or tokens.shape[-2] <= MANY_TOKENS:
        return function(tokens)
    return torch.cat([function(part) for part in tokens.split(MANY_TOKENS, dim=-2)], dim=-2)
