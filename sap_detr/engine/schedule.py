"""Learning-rate schedules counted in epochs of the data set at hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class EpochSchedule:
    """A constant rate that drops after some epochs, with an optional linear warm-up.

    Args:
        epochs: length of the training.
        drop_epochs: epochs after which the rate is multiplied with ``drop_factor``.
        drop_factor: factor of each drop.
        warmup_iters: iterations of the warm-up; 0 for none.
        warmup_factor: factor of the first iteration; it grows linearly to 1 and multiplies the
            drops.
    """

    def __init__(
        self,
        epochs: float,
        drop_epochs: Sequence[float] = (),
        drop_factor: float = 0.1,
        warmup_iters: int = 0,
        warmup_factor: float = 0.001,
    ) -> None:
        if epochs <= 0:
            raise ValueError(f"schedule.epochs must be positive, got {epochs}")
        self.epochs = epochs
        self.drop_epochs = tuple(drop_epochs)
        self.drop_factor = drop_factor
        self.warmup_iters = warmup_iters
        self.warmup_factor = warmup_factor

    def num_iterations(self, iterations_per_epoch: int) -> int:
        """Length of the training in iterations."""
        return max(round(self.epochs * iterations_per_epoch), 1)

    def factor(self, iteration: int, iterations_per_epoch: int) -> float:
        """What the base rate is multiplied with in an iteration, counted from 0."""
        drops = sum(iteration >= round(e * iterations_per_epoch) for e in self.drop_epochs)
        factor = self.drop_factor**drops
        if iteration < self.warmup_iters:
            done = iteration / self.warmup_iters
            factor *= self.warmup_factor * (1 - done) + done
        return factor

    def build(self, optimizer: Optimizer, iterations_per_epoch: int) -> LambdaLR:
        """A torch scheduler that is stepped once per iteration."""
        return LambdaLR(optimizer, partial(self.factor, iterations_per_epoch=iterations_per_epoch))
