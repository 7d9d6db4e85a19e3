"""Detectron2's ImageNet weights: pickled dicts of numpy arrays, read without trusting them.

``torch.load(weights_only=True)`` reads only pickles that torch wrote, and numpy's own functions
trust what a pickle says about pointers and fields. So stand-ins are called in their place. That
each is a class with ``__setstate__`` keeps a pickle from setting attributes on it.
"""

from __future__ import annotations

import collections
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch


class RefusedGlobalError(pickle.UnpicklingError):
    """Carries the dotted name of a class or function that arrays don't need."""


class _Dtype:
    """Stands in for `numpy.dtype`: booleans, integers and floating point, in either byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not re.fullmatch(r"[<>|=]?[biuf]\d{1,2}", code):
            raise pickle.UnpicklingError(f"an array of the unexpected type {code!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands in for `numpy.ndarray` and for `_reconstruct`, after which `__setstate__` fills it."""

    value: np.ndarray

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes | str]) -> None:
        _, shape, dtype, fortran_order, data = state
        # Python 2 wrote bytes as str, which is read as latin1, one character a byte.
        data = data.encode("latin1") if isinstance(data, str) else data
        self.fill(data, dtype, shape, "F" if fortran_order else "C")

    def fill(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> None:
        """Take the bytes of an array of this dtype, shape and memory order ("F" or "C")."""
        values = np.frombuffer(data, dtype.value) if data else np.empty(0, dtype.value)
        self.value = values.reshape(shape, order="F" if order == "F" else "C")


class _ArrayFromBytes(_Array):
    """Stands in for numpy's `_frombuffer`, which pickles of protocol 5 call."""

    def __init__(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> None:
        self.fill(data, dtype, shape, order)


class Latin1Bytes(bytes):
    """Stands in for `_codecs.encode`, with which pickles of protocol 2 write bytes."""

    def __new__(cls, text: str, encoding: str = "latin1") -> Latin1Bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in the unexpected encoding {encoding!r}")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("unexpected state")


_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): Latin1Bytes,
}
for _core in ("core", "_core"):  # numpy 1, numpy 2
    _GLOBALS[f"numpy.{_core}.multiarray", "_reconstruct"] = _Array
    _GLOBALS[f"numpy.{_core}.numeric", "_frombuffer"] = _ArrayFromBytes
for _kind in (dict, list, tuple, set, frozenset):
    _GLOBALS["builtins", _kind.__name__] = _GLOBALS["__builtin__", _kind.__name__] = _kind


class _ArrayUnpickler(pickle.Unpickler):
    """Admits arrays and containers; anything else is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise RefusedGlobalError(f"{module}.{name}") from None


def load_array_pickle(path: Path) -> Any:
    """Read a pickle of numpy arrays, which become tensors, in containers.

    Raises:
        RefusedGlobalError: it refers to another class or function.
        Exception: of nearly any kind, if it is damaged.
    """
    with path.open("rb") as file:
        return _to_tensors(_ArrayUnpickler(file, encoding="latin1").load(), {})


def _to_tensors(data: Any, done: dict[int, dict[Any, Any]]) -> Any:
    if isinstance(data, dict):
        # Dicts that are shared again and again would take for ever one by one.
        if id(data) not in done:
            done[id(data)] = converted = {}
            for key, value in data.items():
                converted[key] = _to_tensors(value, done)
        return done[id(data)]
    if isinstance(data, _Array):
        # The copy makes it writable and in native byte order, as torch requires.
        native = data.value.dtype.newbyteorder("=")
        return torch.from_numpy(data.value.astype(native, order="C", copy=True))
    return data
