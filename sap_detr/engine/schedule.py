"""The length of a training in iterations, counted in epochs of the data at hand."""

from __future__ import annotations

from omegaconf import DictConfig

from ..config import ConfigError


def fill_in_length(train: DictConfig, num_images: int, batch_size: int) -> int:
    """Fill in, in place, what a recipe leaves to the data.

    Args:
        train: ``max_iter`` wins over ``epochs``; ``checkpointer.period`` and ``eval_period`` that
            are None become once per epoch.
        num_images: of the training data.
        batch_size: images of one iteration, of all processes.

    Returns:
        The iterations of an epoch, whole batches.

    Raises:
        ConfigError: if neither length is given, or a number makes no sense.
    """
    epoch = num_images // batch_size
    if train.max_iter is None:
        epochs = train.get("epochs")
        if epochs is None:
            raise ConfigError("the length of the training is not known: set train.max_iter")
        if epochs <= 0:
            raise ConfigError(f"train.epochs must be above 0, got {epochs}")
        train.max_iter = max(round(epochs * epoch), 1)
    for part, key, name, least in (
        (train, "max_iter", "train.max_iter", 1),
        (train.checkpointer, "period", "train.checkpointer.period", 1),
        (train, "eval_period", "train.eval_period", 0),
    ):
        if part[key] is None:
            part[key] = epoch
        if not isinstance(part[key], int) or part[key] < least:
            raise ConfigError(f"{name} must be a whole number from {least} on, got {part[key]!r}")
    return epoch
