"""How often a program makes the host wait for the device.

On a GPU torch itself says so. On the CPU nothing ever waits, so what would wait on a GPU is counted
instead: an upper limit, since tensors that are on the host anyway can't be told from others.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Results whose size or value the host has to know. Indexing with a mask looks for its elements.
_READING_OPERATORS = frozenset(
    {
        "_local_scalar_dense",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "unique_consecutive",
        "unique_dim",
    }
)
_INDEXING_OPERATORS = frozenset({"_index_put_impl_", "index", "index_put", "index_put_"})
# Copies to the host, which on the CPU are no operators. numpy() only follows another of them.
_COPYING_METHODS = frozenset({"cpu", "tolist"})
# What Detectron2 reads to pad images is their sizes, which never leave the host.
_HOST_ONLY = "structures/image_list.py"


def count_host_syncs(
    run: Callable[[], object],
    device: torch.device,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, int]:
    """Count where the host waits for the device.

    Args:
        run: what is looked at; it must have run before, because first runs wait more.
        device: where it computes.
        optimizer: its counters of steps are on the host, whatever the device of the model is, and
            may be read.

    Returns:
        What waits and where, such as "cpu at modeling/matcher.py:147", to number of times.
    """
    if device.type == "cuda":
        return _count_on_cuda(run)
    syncs: Counter[str] = Counter()
    states = [] if optimizer is None else optimizer.state.values()
    on_host = {id(state["step"]) for state in states if "step" in state}
    with _Functions(syncs), _Operators(syncs, on_host):
        run()
    return dict(syncs)


def _count_on_cuda(run: Callable[[], object]) -> dict[str, int]:
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    synchronizing = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
    return dict(Counter(f"wait at {_short(w.filename, w.lineno)}" for w in synchronizing))


class _Operators(TorchDispatchMode):
    """Counts operators that read on the host."""

    def __init__(self, syncs: Counter[str], on_host: Container[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.syncs = syncs
        self.on_host = on_host

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        namespace, _, name = str(func.overloadpacket).partition(".")
        if namespace == "aten" and (
            (name in _READING_OPERATORS and id(args[0]) not in self.on_host)
            or (name in _INDEXING_OPERATORS and _has_mask(args[1]))
            or (name == "repeat_interleave" and (kwargs or {}).get("output_size") is None)
        ):
            _count(self.syncs, name)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Counts copies to the host."""

    def __init__(self, syncs: Counter[str]) -> None:
        super().__init__()
        self.syncs = syncs

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in _COPYING_METHODS or (name == "to" and _to_host(args, kwargs)):
            _count(self.syncs, name)
        before = self.syncs.copy()
        result = func(*args, **kwargs)
        # The labels that it looks at on the CPU are not looked at on a GPU.
        if name == "one_hot" and kwargs.get("num_classes", [*args, -1][1]) != -1:
            self.syncs.clear()
            self.syncs.update(before)
        return result


def _count(syncs: Counter[str], name: str) -> None:
    if not (where := _caller()).startswith(_HOST_ONLY):
        syncs[f"{name} at {where}"] += 1


def _has_mask(indices: Any) -> bool:
    return any(
        isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices
    )


def _to_host(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether ``Tensor.to`` is asked for the CPU by name; a model's own device is an object."""
    return "cpu" in (*(x for x in args[1:] if isinstance(x, str)), kwargs.get("device"))


def _caller() -> str:
    """File and line of the innermost frame that belongs neither to torch nor to this module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(str(_TORCH)) and not file.startswith("<"):
            return _short(file, frame.f_lineno)
        frame = frame.f_back
    return "?"


def _short(file: str, line: int) -> str:
    path = Path(file)
    return f"{path.parent.name}/{path.name}:{line}"


_TORCH = Path(torch.__file__).parent
