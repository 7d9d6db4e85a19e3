"""Times of the parts of a model, and statistics that hold on a machine that others use as well.

Why not torch.utils.benchmark: its Timer knows no parts, and runs what it measures twice more before
every measurement, so that measuring in turns would take three times as long. Measured one after the
other, as it does otherwise, two speeds can't be compared on a shared machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

T = TypeVar("T")

# Part of a run to its time in seconds; together they are the whole.
Seconds = dict[str, float]


def clock_of(device: torch.device) -> Callable[[], Any]:
    """Return what marks moments in the work of a device: on a GPU nothing waits for a mark."""
    if device.type != "cuda":
        return time.perf_counter

    def record_event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event

    return record_event


class PartTimer:
    """Splits the time of a run between its parts.

    Time belongs to the innermost part that is running.

    Args:
        clock: marks a moment, see :func:`clock_of`: as a number, or as an event of a GPU.
    """

    def __init__(self, clock: Callable[[], Any]) -> None:
        self.clock = clock
        self._running: list[str] = []
        self._marks: list[tuple[str, Any]] = []

    def run(self, function: Callable[[], object], own: str = "other") -> Seconds:
        """Call a function and measure how long it takes.

        Args:
            function: what is measured.
            own: name of the time in which no part runs.
        """
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self._running, self._marks = [], []
        with self.part(own):
            function()
        seconds: Seconds = {}
        for (part, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[part] = seconds.get(part, 0.0) + _seconds_between(start, end)
        return seconds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as this part."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def follow(self, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
        """Count, while it is active, the forward passes of modules as parts.

        Args:
            modules: name of the part, and the module; several modules may make one part.
        """
        handles = []
        for name, module in modules:
            handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, *hooked: Any) -> None:
        self._running.append(name)
        self._marks.append((name, self.clock()))

    def _leave(self, *hooked: Any) -> None:
        self._running.pop()
        self._marks.append((self._running[-1] if self._running else "", self.clock()))


def _seconds_between(start: Any, end: Any) -> float:
    if isinstance(end, torch.cuda.Event):
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    return float(end - start)


def in_turns(
    runs: Mapping[str, Callable[[], T]], rounds: int, warm_up: int = 0
) -> dict[str, list[T]]:
    """Call functions one after the other, round by round, and collect what each returns.

    What slows a shared machine down for a while then meets all of them, and a comparison of
    neighbours is hardly disturbed.

    Args:
        runs: name to function.
        rounds: how often each is called.
        warm_up: rounds before those, whose results are dropped.

    Raises:
        ValueError: if there are no rounds.
    """
    if rounds < 1:
        raise ValueError(f"there must be at least one round, got {rounds}")
    for _ in range(warm_up):
        for run in runs.values():
            run()
    results: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    return results


def statistics(samples: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles, 90th percentile and smallest of several measurements.

    Raises:
        ValueError: if there is none.
    """
    if not samples:
        raise ValueError("there are no measurements")
    low, median, high, p90 = np.percentile(samples, [25, 50, 75, 90]).tolist()
    return {"median": median, "low": low, "high": high, "p90": p90, "min": min(samples)}


def run_statistics(runs: Sequence[Seconds]) -> dict[str, Any]:
    """Return :func:`statistics` of whole runs, and ``parts``, the median of each part."""
    names = dict.fromkeys(name for run in runs for name in run)
    parts = {name: float(np.median([run.get(name, 0.0) for run in runs])) for name in names}
    return {**statistics(totals(runs)), "parts": parts}


def ratio_of_neighbours(runs: Sequence[Seconds], reference: Sequence[Seconds]) -> dict[str, float]:
    """Return :func:`statistics` of how many times the reference something takes.

    Args:
        runs: of it.
        reference: runs of the reference, each measured next to the run of the same index.

    Raises:
        ValueError: if the lengths differ.
    """
    return statistics([a / b for a, b in zip(totals(runs), totals(reference), strict=True)])


def totals(runs: Sequence[Seconds]) -> list[float]:
    """Return the time of each run in seconds."""
    return [sum(run.values()) for run in runs]
