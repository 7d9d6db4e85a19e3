"""Dropout, alone and behind a ReLU."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .cpu import cpu_form_applies
from .cpu.dropout import can_draw, cheap_dropout, cheap_relu_dropout


def dropout(x: Tensor, p: float) -> Tensor:
    """Set elements to 0 with probability ``p``, and scales the others so that the mean stays."""
    if p == 0:
        return x
    if can_draw(p) and cpu_form_applies(x, meta=False, autocast=True):
        return cheap_dropout(x, p)
    return F.dropout(x, p)


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """Dropout of ReLU."""
    if p == 0:
        return F.relu(x)
    if can_draw(p) and cpu_form_applies(x, meta=False, autocast=True):
        return cheap_relu_dropout(x, p)
    return F.dropout(F.relu(x), p)


class Dropout(nn.Dropout):
    """:func:`dropout` while training."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (...) to (...)."""
        return dropout(x, self.p) if self.training else x
