"""Hooks and writers of metrics that a config names: ``train.hooks`` and ``train.writers``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from ..config import ConfigError, build_part

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
            target: Any = described.get("_target_") if isinstance(described, Mapping) else None
            if target is None:
                raise ConfigError(
                    f"{where}: a part with _target_, the name of a class, is expected"
                )
            try:
                found = locate(target) if isinstance(target, str) else target
            except (ImportError, ValueError) as error:
                raise ConfigError(f"{where}._target_={target}: there is no such class") from error
            if not callable(found):
                raise ConfigError(f"{where}._target_={target} is not a class")
