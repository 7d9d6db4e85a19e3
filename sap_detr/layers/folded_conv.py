"""Convolutions that take the frozen batch norm behind them into their weights."""

from __future__ import annotations

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn import functional as F


class FoldedConv2d(Conv2d):  # type: ignore[misc]
    """Detectron2's convolution with a frozen batch norm, computed as one convolution.

    A frozen batch norm multiplies every channel by a constant and adds one, so that it can be part
    of weight and bias: no pass over the feature map of its own, and nothing kept for its gradient.
    Parameters and buffers are those of the convolution and of its norm, under the same names.
    """

    norm: FrozenBatchNorm2d

    @classmethod
    def adopt(cls, conv: Conv2d) -> FoldedConv2d:
        """Make one out of a convolution with a :class:`FrozenBatchNorm2d`, sharing all tensors."""
        folded = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=False,
            norm=conv.norm,
            activation=conv.activation,
            device="meta",
        )
        folded.weight = conv.weight
        return folded

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        weight, bias = self._folded()
        x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)

    def _folded(self) -> tuple[Tensor, Tensor]:
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return self.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def fold_frozen_norms(module: nn.Module) -> nn.Module:
    """Replace every convolution with a frozen batch norm by a :class:`FoldedConv2d`; in place."""
    for name, child in module.named_children():
        if isinstance(child, Conv2d) and isinstance(child.norm, FrozenBatchNorm2d):
            setattr(module, name, FoldedConv2d.adopt(child))
        else:
            fold_frozen_norms(child)
    return module
