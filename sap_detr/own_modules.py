"""Modules that lie beside a user's config, and what a config may name of them."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from detectron2.utils.registry import locate

from .config_files import ConfigError
from .config_values import walk


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
    for _, found in walk(content):
        if not (callable(found) and hasattr(found, "__qualname__")):
            continue
        module, name = found.__module__, found.__qualname__
        named = None
        with suppress(ImportError):
            named = locate(f"{module}.{name}")
        if named is not found:
            raise ConfigError(
                f"{config} defines {name}, which no file of a run and no other process could "
                f"find there: move it into a module beside the config, such as "
                f"{config.with_name('my_parts.py')}, and write: from my_parts import {name}"
            )
        top = module.partition(".")[0]
        spec = PathFinder.find_spec(top, [str(config.parent)])
        if spec is None or spec.origin is None:
            continue
        own, used = Path(spec.origin).resolve(), getattr(sys.modules[top], "__file__", None)
        if used is None or Path(used).resolve() != own:
            raise ConfigError(
                f"{config} names {module}.{name}, but beside it lies {own.name} while {used} was "
                "imported under the same name: give yours another name"
            )
        beside = True
    return beside
