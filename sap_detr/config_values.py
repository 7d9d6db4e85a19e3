"""The values of a config, as plain data and one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import OmegaConf

TARGET = "_target_"


def plain(node: Any) -> Any:
    """Return a part of a config as dicts and lists, after its interpolations.

    What is called, its ``_target_``, becomes the name of where it is defined: a file may have the
    name by which it was imported.
    """
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, dict):
        return {
            str(key): _defined_name(value) if key == TARGET else plain(value)
            for key, value in node.items()
        }
    return [plain(value) for value in node] if isinstance(node, list | tuple) else node


def _defined_name(target: Any) -> Any:
    found = target
    if isinstance(target, str):
        with suppress(ImportError):
            found = locate(target)
    return f"{found.__module__}.{found.__qualname__}" if hasattr(found, "__qualname__") else target


def walk(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Go through plain containers and all that is in them, each with where it stands."""
    yield where, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from walk(value, f"{where}[{index}]")
