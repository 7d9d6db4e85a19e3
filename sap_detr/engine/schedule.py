"""The length of a training in iterations, counted in epochs of the data at hand."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from ..config import ConfigError


@dataclass(frozen=True)
class RunLength:
    """How long a training is, in iterations.

    Attributes:
        iterations_per_epoch: whole batches.
        max_iter: of the training.
        checkpoint_period: between two checkpoints.
        eval_period: between two evaluations; 0 for the one at the end only.
    """

    iterations_per_epoch: int
    max_iter: int
    checkpoint_period: int
    eval_period: int


def find_run_length(train: DictConfig, num_images: int, batch_size: int) -> RunLength:
    """Fill in what a recipe leaves to the data.

    Args:
        train: ``max_iter`` wins over ``epochs``; periods that are None are once per epoch.
        num_images: of the training data.
        batch_size: images of one iteration, of all processes.

    Raises:
        ConfigError: if neither length is given, or a number makes no sense.
    """
    epoch = num_images // batch_size
    epochs = train.get("epochs")
    if train.max_iter is None and epochs is None:
        raise ConfigError("the length of the training is not known: set train.max_iter")
    if train.max_iter is None and epochs <= 0:
        raise ConfigError(f"train.epochs must be above 0, got {epochs}")
    length = max(round(epochs * epoch), 1) if train.max_iter is None else train.max_iter
    checkpoint_period = _period(train.checkpointer.period, epoch)
    eval_period = _period(train.eval_period, epoch)
    for key, value, least in (
        ("train.max_iter", length, 1),
        ("train.checkpointer.period", checkpoint_period, 1),
        ("train.eval_period", eval_period, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise ConfigError(f"{key} must be a whole number from {least} on, got {value!r}")
    return RunLength(epoch, length, checkpoint_period, eval_period)


def _period(given: int | None, epoch: int) -> int:
    return epoch if given is None else given
