"""Modules that lie beside a user's config, and what a config may name of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.utils.registry import locate

from .config_files import ConfigError


def make_importable(folder: Path) -> None:
    """Let modules of a folder be imported, behind all others, here and in processes to come."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def check_callables(content: Any, config: Path) -> bool:
    """Find out whether all that a config calls could be imported by its name.

    Args:
        content: of the config, as plain containers.
        config: the file.

    Returns:
        Whether modules beside the config are among it.

    Raises:
        ConfigError: something is defined in the config itself, or in a module whose name another
            module has.
    """
    beside = False
    for found in _callables(content):
        module, name = found.__module__, found.__qualname__
        if _named(f"{module}.{name}") is not found:
            raise ConfigError(
                f"{config} defines {name}, which no file of a run and no other process could "
                f"find there: move it into a module beside the config, such as "
                f"{config.with_name('my_parts.py')}, and write: from my_parts import {name}"
            )
        top = module.partition(".")[0]
        own = _own_file(config.parent, top)
        if own is None:
            continue
        used = getattr(sys.modules[top], "__file__", None)
        if used is None or Path(used).resolve() != own:
            raise ConfigError(
                f"{config} names {module}.{name}, but beside it lies {own.name} while {used} was "
                "imported under the same name: give yours another name"
            )
        beside = True
    return beside


def _callables(node: Any) -> Iterator[Any]:
    """Find all classes and functions."""
    if isinstance(node, dict):
        for value in node.values():
            yield from _callables(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _callables(value)
    elif callable(node) and hasattr(node, "__qualname__") and hasattr(node, "__module__"):
        yield node


def _named(name: str) -> Any:
    try:
        return locate(name)
    except ImportError:
        return None


def _own_file(folder: Path, name: str) -> Path | None:
    """Return the file of a module or package of this name in a folder, if there is one."""
    for path in (folder / f"{name}.py", folder / name / "__init__.py"):
        if path.is_file():
            return path.resolve()
    return None
