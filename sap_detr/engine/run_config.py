"""The config that a run leaves in its output folder, and what has changed when it is resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from ..config import ConfigError, load_config
from ..config_values import plain

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"

# What a checkpoint's optimizer brings along: the rates and the like of its parameter groups.
_FROM_CHECKPOINT = "optimizer."
# Where a run writes and on what it runs is not what it computes.
_UNIMPORTANT = (
    "import_from",
    "train.output_dir",
    "train.device",
    "train.progress_bar",
    "train.class_names",
)


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write a config to a run's output folder."""
    LazyConfig.save(cfg, str(folder / CONFIG_FILE))
    logger.info(f"full config saved to {folder / CONFIG_FILE}")


def log_changes(cfg: DictConfig, folder: Path) -> None:
    """Log which settings of a resumed run differ from those it was started with.

    Args:
        cfg: of the resumed run.
        folder: its output folder, with the config of the run so far.
    """
    try:
        before = load_config(str(folder / CONFIG_FILE))
    except (FileNotFoundError, ConfigError) as error:
        logger.warning(f"changes of settings can't be told: {error}")
        return
    ignored: list[str] = []
    applied: list[str] = []
    for key, old, new in changed_settings(before, cfg):
        (ignored if key.startswith(_FROM_CHECKPOINT) else applied).append(f"{key}: {old} -> {new}")
    logger.info("the optimizer's settings and state, the iteration and the averages are resumed")
    if ignored:
        logger.warning(
            "these changes are ignored, the checkpoint's settings of the optimizer go on; to use "
            "others, start a run with train.init_checkpoint:\n  " + "\n  ".join(ignored)
        )
    if applied:
        logger.warning("these changes are applied from here on:\n  " + "\n  ".join(applied))


def changed_settings(before: DictConfig, after: DictConfig) -> list[tuple[str, Any, Any]]:
    """Compare two configs, after their interpolations.

    Returns:
        (key, value before, value after) where they differ; None for a key that is not there.
    """
    old, new = dict(leaves(before)), dict(leaves(after))
    keys = [*new, *(key for key in old if key not in new)]
    pairs = [(key, old.get(key), new.get(key)) for key in keys if key not in _UNIMPORTANT]
    return [(key, was, now) for key, was, now in pairs if was != now]


def leaves(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """Return the values of a config, as :func:`plain` makes them, by their keys; lists whole."""

    def of(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from of(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return of(plain(cfg), "")
