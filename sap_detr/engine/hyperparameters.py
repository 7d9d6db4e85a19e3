"""Hyperparameters in TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.engine import HookBase
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

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

    def walk(node: Any, key: str) -> Iterator[tuple[str, bool | float | str]]:
        if isinstance(node, dict):
            for name, value in node.items():
                yield from walk(value, f"{key}.{name}" if key else str(name))
        elif isinstance(node, bool | int | float | str) and key not in _LEFT_OUT:
            yield key, node
        elif isinstance(node, list | tuple) and all(isinstance(v, int | float) for v in node):
            yield key, str(list(node))

    return walk(OmegaConf.to_container(cfg, resolve=True), "")
