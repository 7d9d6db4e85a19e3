"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


class ModelEma:
    """Keep ``decay * average + (1 - decay) * weights`` of all floating-point state of a model.

    Args:
        model: not wrapped.
        decay: share of the old average in each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self._average = AveragedModel(
            model, multi_avg_fn=self._move, use_buffers=True
        ).requires_grad_(False)
        self._skip: Tensor | None = None

    def update(self, skip: Tensor | None = None) -> None:
        """Take the model's weights into the average; the first call copies them.

        Args:
            skip: boolean tensor () on the device. Where it is true the average stays as it is,
                though the update counts; the host does not wait for it.
        """
        self._skip = skip
        self._average.update_parameters(self.model)
        self._skip = None

    @torch.no_grad()
    def _move(self, averages: _Tensors, current: _Tensors, _: Any) -> None:
        """Update averages of one dtype in place."""
        skip = self._skip
        if skip is None:
            skip = torch.zeros((), dtype=torch.bool, device=averages[0].device)
        if averages[0].is_floating_point():
            steps = list(torch._foreach_sub(current, averages))
            torch._foreach_mul_(steps, (1 - self.decay) * (~skip).to(averages[0].dtype))
            torch._foreach_add_(averages, steps)
            return
        # Numbers of batches, which have no average.
        for average, value in zip(averages, current, strict=True):
            average.copy_(torch.where(skip, average, value))

    @property
    def is_used(self) -> bool:
        """Whether there is an average: not before the first update."""
        return bool(self._average.n_averaged)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for the time of a ``with`` block."""
        if not self.is_used:
            yield
            return
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self._average.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged state, under the model's own names, and the number of updates."""
        state = dict(self._average.module.state_dict())
        return {**state, "num_updates": self._average.n_averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        state = dict(state_dict)
        self._average.n_averaged.copy_(torch.as_tensor(state.pop("num_updates")))
        self._average.module.load_state_dict(state)


class EmaHook(HookBase):  # type: ignore[misc]
    """Update an average after every step that was not skipped."""

    def __init__(self, ema: ModelEma) -> None:
        self._ema = ema

    def after_step(self) -> None:
        self._ema.update(self.trainer._trainer.skip)
