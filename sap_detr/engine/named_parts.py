"""Hooks and writers of metrics that a config names: ``train.hooks`` and ``train.writers``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter
from omegaconf import DictConfig

from ..config import ConfigError, build_part, find_target

Part = TypeVar("Part", HookBase, EventWriter)


def build_named(train: DictConfig, key: str, kind: type[Part]) -> list[Part]:
    """Build what ``train.hooks`` or ``train.writers`` lists.

    Args:
        train: the part of the config.
        key: "hooks" or "writers".
        kind: what each must be.

    Raises:
        ConfigError: if one can't be built, or is something else.
    """
    built = []
    for index, described in enumerate(train.get(key) or ()):
        where = f"train.{key}[{index}]"
        part = build_part(where, described)
        if not isinstance(part, kind):
            raise ConfigError(
                f"{where} is a {type(part).__name__}, not one of Detectron2's {kind.__name__}"
            )
        built.append(part)
    return built


def check_named(train: DictConfig) -> None:
    """Find out whether what ``train.hooks`` and ``train.writers`` name exists; build nothing.

    Raises:
        ConfigError: if it does not.
    """
    for key in ("hooks", "writers"):
        for index, described in enumerate(train.get(key) or ()):
            where = f"train.{key}[{index}]"
            if not isinstance(described, Mapping) or described.get("_target_") is None:
                raise ConfigError(
                    f"{where}: a part with _target_, the name of a class, is expected"
                )
            if not callable(find_target(where, described)):
                raise ConfigError(f"{where}._target_={described['_target_']} is not a class")
