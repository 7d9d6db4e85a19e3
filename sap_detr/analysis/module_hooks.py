"""Following which modules of a model run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def following(
    modules: Iterable[tuple[str, nn.Module]],
    enter: Callable[[str], object],
    leave: Callable[[], object],
) -> Iterator[None]:
    """While it is active, says when the forward passes of modules start and end.

    Args:
        modules: a name, and the module.
        enter: called with the name.
        leave: called at the end.
    """
    handles = []
    for name, module in modules:

        def before(module: nn.Module, args: Any, name: str = name) -> None:
            enter(name)

        def after(module: nn.Module, args: Any, result: Any) -> None:
            leave()

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
