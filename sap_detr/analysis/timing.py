"""Clocks, times of parts, and statistics that hold on a machine that others use as well."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from .module_hooks import following

T = TypeVar("T")


class Clock(Protocol):
    """Marks moments in the work of a device."""

    def now(self) -> Any:
        """Return a mark behind all work that was given to the device so far."""

    def finish(self) -> None:
        """Wait for the device; only then can marks be compared."""

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two marks."""


class HostClock:
    """For devices that work while they are called, such as the CPU."""

    def now(self) -> float:
        return time.perf_counter()

    def finish(self) -> None:
        pass

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """Marks in the stream of work of a GPU, so that nothing waits between two of them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def finish(self) -> None:
        torch.cuda.synchronize(self.device)

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        result: float = start.elapsed_time(end) / 1e3
        return result


def clock_of(device: torch.device) -> Clock:
    """Return the clock for work on a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


@dataclass(frozen=True)
class Split:
    """The time of one run in seconds.

    Attributes:
        parts: time of each part; they add up to the whole.
        processor: time that processors of the host worked for this process. Other processes hardly
            change it, but what waits for a GPU or for other threads is not in it.
    """

    parts: Mapping[str, float]
    processor: float = math.nan

    @property
    def total(self) -> float:
        """The time of the run."""
        return sum(self.parts.values())


class PartTimer:
    """Splits the time of a run between its parts.

    Time belongs to the innermost part that is running.

    Args:
        clock: marks moments in the work of the device.
        processor_time: seconds that the host's processors have worked for this process.
    """

    def __init__(
        self, clock: Clock, processor_time: Callable[[], float] = time.process_time
    ) -> None:
        self.clock = clock
        self.processor_time = processor_time
        self._running: list[str] = []
        self._marks: list[tuple[str, Any]] = []

    def run(self, function: Callable[[], object], own: str = "other") -> Split:
        """Call a function and measure how long it takes.

        Args:
            function: what is measured.
            own: name of the time in which no part runs.
        """
        self.clock.finish()
        self._running, self._marks = [], []
        worked = self.processor_time()
        self._enter(own)
        function()
        self._leave()
        self.clock.finish()
        worked = self.processor_time() - worked
        seconds: dict[str, float] = {}
        for (part, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[part] = seconds.get(part, 0.0) + self.clock.seconds(start, end)
        return Split(seconds, worked)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as this part."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def follow(self, modules: Iterable[tuple[str, nn.Module]]) -> AbstractContextManager[None]:
        """While it is active, the forward passes of modules are parts.

        Args:
            modules: name of the part, and the module; several modules may make one part.
        """
        return following(modules, self._enter, self._leave)

    def _enter(self, name: str) -> None:
        self._running.append(name)
        self._marks.append((name, self.clock.now()))

    def _leave(self) -> None:
        self._running.pop()
        self._marks.append((self._running[-1] if self._running else "", self.clock.now()))


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
    """Median, quartiles, 90th percentile and smallest of several measurements.

    Raises:
        ValueError: if there is none.
    """
    if not samples:
        raise ValueError("there are no measurements")
    low, median, high, p90 = np.percentile(samples, [25, 50, 75, 90]).tolist()
    return {"median": median, "low": low, "high": high, "p90": p90, "min": min(samples)}


def ratio_of_neighbours(samples: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """How many times the reference something takes.

    Args:
        samples: measurements of it.
        reference: measurements of the reference, each taken next to the sample of the same index.

    Returns:
        :func:`statistics` of the ratios, and ``best``, the ratio of the two smallest.

    Raises:
        ValueError: if the lengths differ.
    """
    ratios = [a / b for a, b in zip(samples, reference, strict=True)]
    return {**statistics(ratios), "best": min(samples) / min(reference)}


def split_statistics(splits: Sequence[Split]) -> dict[str, Any]:
    """Statistics of runs.

    Returns:
        Those of the whole; ``parts``: the median of each part; ``processor``: the median time of
        the processors.
    """
    names = dict.fromkeys(name for split in splits for name in split.parts)
    parts = {name: float(np.median([s.parts.get(name, 0.0) for s in splits])) for name in names}
    return {
        **statistics([split.total for split in splits]),
        "parts": parts,
        "processor": float(np.median([split.processor for split in splits])),
    }


def ratio_of_splits(splits: Sequence[Split], reference: Sequence[Split]) -> dict[str, Any]:
    """:func:`ratio_of_neighbours` of the whole, and of the time of the processors."""
    return {
        **ratio_of_neighbours([s.total for s in splits], [s.total for s in reference]),
        "processor": ratio_of_neighbours(
            [s.processor for s in splits], [s.processor for s in reference]
        ),
    }
