"""Feed-forward building blocks shared by encoders, decoders and heads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cpu import cpu_form_applies
from .cpu.linear import in_portions, linear_as_convolution, suits_convolution
from .dropout import relu_dropout


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, in the form that is fastest where it runs.

    Args:
        x: (..., D).
        weight: (O, D).
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    if cpu_form_applies(x, meta=False) and suits_convolution(x, weight):
        return linear_as_convolution(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer that computes :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
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
        """Map (..., in_dim) to (..., out_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        result: Tensor = self.layers[-1](x)
        return result


def linear_side_by_side(x: Tensor, layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """Apply several linear layers to one input as a single product.

    Args:
        x: (..., D).
        layers: linear layers with bias and D input channels.

    Returns:
        The output of each of them, (..., out_features).
    """
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    result: tuple[Tensor, ...] = linear(x, weight, bias).split(
        [layer.out_features for layer in layers], dim=-1
    )
    return result


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
        """Map (..., D) to (..., D)."""
        if not torch.is_grad_enabled() and cpu_form_applies(x, meta=False, autocast=True):
            return in_portions(self._run, x)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        hidden = relu_dropout(self.linear1(x), self.dropout if self.training else 0.0)
        result: Tensor = self.linear2(hidden)
        return result


def xavier_init_matrices(module: nn.Module) -> None:
    """Draws every parameter with two or more dimensions from Xavier's uniform distribution.

    The published DETR family does this once for the whole transformer; a packed projection counts
    as one matrix. Vectors (biases, norms) are left as they are.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
