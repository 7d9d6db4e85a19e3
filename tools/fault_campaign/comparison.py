"""Compare what two runs left behind, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sap_detr.checkpoint import load_checkpoint_file

# What is meant to differ from run to run.
_OWN_KEYS = {"run_id"}


class Difference(NamedTuple):
    """The first place where two checkpoints are not the same, and what is there."""

    place: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.place}: {self.first} and {self.second}"


def first_difference(first: Any, second: Any, place: str = "") -> Difference | None:
    """Compare two checkpoints: weights, averages, optimizer, counts, everything.

    Args:
        first, second: files, or their contents.
        place: what to call them in the result.
    """
    if isinstance(first, Path):
        return first_difference(load_checkpoint_file(first), load_checkpoint_file(second), place)
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if (
            first.dtype == second.dtype
            and first.shape == second.shape
            and _same_bits(first, second)
        ):
            return None
        return Difference(place, _describe(first), _describe(second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [key for key in {**first, **second} if key not in _OWN_KEYS]
        pairs = [(f"{place}[{key!r}]", first.get(key), second.get(key)) for key in keys]
    elif isinstance(first, list | tuple) and type(first) is type(second):
        if len(first) != len(second):
            return Difference(place, f"{len(first)} items", f"{len(second)} items")
        pairs = [
            (f"{place}[{i}]", a, b) for i, (a, b) in enumerate(zip(first, second, strict=True))
        ]
    else:
        same = type(first) is type(second) and (first == second or first != first)
        return None if same else Difference(place, _describe(first), _describe(second))
    found = (first_difference(a, b, name) for name, a, b in pairs)
    return next((difference for difference in found if difference is not None), None)


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.numel() == 0:
        return True
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (first, second)]
    return torch.equal(*flat)


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype} with norm {value.double().norm():.17g}"
    return repr(value)[:80]


def metrics_problem(path: Path) -> str | None:
    """Return what is wrong with the metrics of a resumed run: a broken or a repeated line."""
    seen: set[tuple[int, str]] = set()
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return f"{path} line {number} is broken: {line[:80]!r}"
        entries = {(record["iteration"], key) for key in record if key != "iteration"}
        if entries & seen:
            return f"{path} line {number} repeats {min(entries & seen)}"
        seen |= entries
    return None
