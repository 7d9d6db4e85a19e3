"""Hyperparameters in TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator

from detectron2.engine import HookBase
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from .run_config import leaves

# Where to find things and what to show, which no result depends on.
_LEFT_OUT = ("train.output_dir", "train.progress_bar", "train.log_period")


class Hyperparameters(HookBase):  # type: ignore[misc]
    """Write the plain values of a config for TensorBoard's HParams, beside ``train.best_metric``.

    For the main process.

    Args:
        cfg: of the run.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self._folder = cfg.train.output_dir
        self._metric = cfg.train.best_metric
        self._values = dict(plain_values(cfg))

    def before_train(self) -> None:
        try:
            with SummaryWriter(self._folder) as writer:
                # Not by add_hparams, which makes a run of its own of them.
                for summary in hparams(self._values, {self._metric: 0.0}):
                    writer.file_writer.add_summary(summary)
        except OSError:
            # A disk that is full does not end training; the writers of metrics tell of it.
            return


def plain_values(cfg: DictConfig) -> Iterator[tuple[str, bool | float | str]]:
    """Return the numbers, texts and truth values of a config by their keys."""
    for key, value in leaves(cfg):
        if key in _LEFT_OUT or key.endswith("_target_"):
            continue
        if isinstance(value, bool | int | float | str):
            yield key, value
        elif isinstance(value, list) and all(isinstance(v, int | float) for v in value):
            yield key, str(value)
