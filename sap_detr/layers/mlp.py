"""Feed-forward building blocks shared by encoders, decoders and heads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dropout import relu_dropout

# From about this many rows on, convolutions are faster than BLAS.
MANY_ROWS = 256

# Without gradients, a feed-forward network takes so many tokens at a time on the CPU.
MANY_TOKENS = 4096


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, on the CPU as a 1x1 convolution where there are many rows.

    The convolution is oneDNN's, which uses the widest instructions of all processors. BLAS may not:
    the one that PyTorch comes with is about half as fast on some.

    Args:
        x: (..., D).
        weight: (O, D).
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    if (
        torch.compiler.is_compiling()
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or x.numel() < MANY_ROWS * x.shape[-1]
        or not torch.backends.mkldnn.is_available()
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight, bias)
    columns = x.reshape(1, -1, x.shape[-1]).transpose(1, 2).unsqueeze(2)
    # The dilation has no effect on a single row, but lets PyTorch choose oneDNN on one thread too.
    result = F.conv2d(columns, weight[:, :, None, None], bias, dilation=(2, 1))
    return result.squeeze(2).transpose(1, 2).reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """A linear layer that computes :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)


class MLP(nn.Module):
    """Linear layers with ReLU between them and none after the last.

    Args:
        in_dim: channels of the input.
        hidden_dim: channels between the layers.
        out_dim: channels of the output.
        num_layers: number of linear layers, at least 1.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"an MLP needs at least one layer, got num_layers={num_layers}")
        dims = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_dim) to (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def linear_side_by_side(x: Tensor, layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """Applies several linear layers to one input as a single product.

    Args:
        x: (..., D).
        layers: linear layers with bias and D input channels.

    Returns:
        The output of each of them, (..., out_features).
    """
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return linear(x, weight, bias).split([layer.out_features for layer in layers], dim=-1)


class FeedForward(nn.Module):
    """The two-layer network of a transformer layer, without its residual connection.

    Args:
        embed_dim: width D of the tokens.
        ffn_dim: width of the hidden layer.
        dropout: probability of dropping a hidden unit while training.
    """

    def __init__(self, embed_dim: int, ffn_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1 = Linear(embed_dim, ffn_dim)
        self.linear2 = Linear(ffn_dim, embed_dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., D) to (..., D)."""
        few = x.dim() < 2 or x.shape[-2] <= MANY_TOKENS
        if (
            few
            or x.device.type != "cpu"
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
        ):
            return self._run(x)
        # The hidden layer of many tokens would not fit into the caches.
        return torch.cat([self._run(part) for part in x.split(MANY_TOKENS, dim=-2)], dim=-2)

    def _run(self, x: Tensor) -> Tensor:
        hidden = relu_dropout(self.linear1(x), self.dropout if self.training else 0.0)
        return self.linear2(hidden)


def xavier_init_matrices(module: nn.Module) -> None:
    """Draws every parameter with two or more dimensions from Xavier's uniform distribution.

    The published DETR family does this once for the whole transformer; a packed projection counts
    as one matrix. Vectors (biases, norms) are left as they are.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
