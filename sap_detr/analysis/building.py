"""Models of configs, without weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from ..config import COCO_NUM_CLASSES, ConfigError, find_target, load_config
from ..modeling import DetectionTransformer

# The published class heads have a row for every COCO category id up to the largest.
PUBLISHED_NUM_CLASSES = 91


def load_with_classes(
    config: str, num_classes: int | None = None, overrides: Sequence[str] = ()
) -> tuple[DictConfig, int | None]:
    """Load a config and settle its number of classes without looking at data.

    Args:
        config: a LazyConfig file or a zoo name.
        num_classes: number of classes; by default the config's own, or 91 where that is COCO's 80.
        overrides: changes as ``key.path=value``.

    Returns:
        The config, and its number of classes if it says it.

    Raises:
        FileNotFoundError: if there is no such config.
        ConfigError: if an override makes no sense, or ``num_classes`` is given and the config's
            model has no such key.
    """
    cfg = load_config(config, overrides)
    if "num_classes" in cfg.model:
        if num_classes is not None or cfg.model.num_classes in (None, COCO_NUM_CLASSES):
            cfg.model.num_classes = num_classes or PUBLISHED_NUM_CLASSES
        num_classes = cfg.model.num_classes
    elif num_classes is not None:
        raise ConfigError(f"{config} has no model.num_classes to set; leave the number out")
    return cfg, num_classes


def build_without_weights(
    config: str, num_classes: int | None = None, overrides: Sequence[str] = ()
) -> tuple[nn.Module, int | None]:
    """Build the model of a config for counting: on the meta device, so without any memory.

    A model other than :class:`DetectionTransformer` is built on the CPU, because what it computes
    may depend on data.

    Args, errors:
        See :func:`load_with_classes`.

    Returns:
        The model in evaluation mode, and its number of classes if the config says it.
    """
    cfg, num_classes = load_with_classes(config, num_classes, overrides)
    target = find_target("model", cfg.model)
    ours = isinstance(target, type) and issubclass(target, DetectionTransformer)
    with torch.device("meta" if ours else "cpu"):
        return instantiate(cfg.model).eval(), num_classes
