from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from sap_detr.analysis.timing import (
    PartTimer,
    clock_of,
    in_turns,
    ratio_of_neighbours,
    run_statistics,
    statistics,
    totals,
)


class FakeClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Work(nn.Module):
    """A module that takes a given time before and after its children."""

    def __init__(self, clock: FakeClock, before: float, after: float, *children: nn.Module) -> None:
        super().__init__()
        self.clock, self.before, self.after = clock, before, after
        self.inner = nn.ModuleList(children)

    def forward(self) -> None:
        self.clock.time += self.before
        for child in self.inner:
            child()
        self.clock.time += self.after


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_time_belongs_to_innermost_part(clock):
    inner = Work(clock, 1, 2)
    outer = Work(clock, 10, 20, inner, inner)
    timer = PartTimer(clock)

    def run() -> None:
        clock.time += 100
        outer()
        with timer.part("rest"):
            clock.time += 1000

    with timer.follow([("outer", outer), ("inner", inner)]):
        split = timer.run(run)
    assert split == {"other": 100, "outer": 30, "inner": 6, "rest": 1000}
    assert totals([split]) == [clock.time] == [1136]
    # The modules are left as they were, and the next run starts anew.
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in outer.modules())
    assert timer.run(outer, own="all") == {"all": 36}


def test_modules_can_share_a_part(clock):
    layers = nn.ModuleList(Work(clock, 0, seconds) for seconds in (1, 2, 4))
    timer = PartTimer(clock)
    with timer.follow([("layers", layer) for layer in layers]):
        split = timer.run(lambda: [layer() for layer in layers])
    assert split["layers"] == 7


def test_failed_run_leaves_nothing_behind(clock):
    timer = PartTimer(clock)

    def fail() -> None:
        with timer.part("broken"):
            raise ValueError

    with pytest.raises(ValueError):
        timer.run(fail)
    assert timer.run(lambda: None) == {"other": 0}


def test_in_turns():
    calls: list[str] = []
    numbers = itertools.count()

    def run(name: str):
        def call() -> int:
            calls.append(name)
            return next(numbers)

        return call

    results = in_turns({"a": run("a"), "b": run("b")}, rounds=2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert results == {"a": [2, 4], "b": [3, 5]}
    with pytest.raises(ValueError, match="at least one round"):
        in_turns({}, 0)


def test_ratio_is_that_of_neighbours():
    # A machine that becomes slower and slower; one sample of each is disturbed.
    reference = [{"": seconds} for seconds in (1.0, 2.0, 4.0, 80.0, 16.0)]
    samples = [{"a": seconds, "b": 2 * seconds} for seconds in (1.0, 2.0, 20.0, 8.0, 16.0)]
    ratio = ratio_of_neighbours(samples, reference)
    assert ratio["median"] == 3
    assert ratio["low"] == 3
    assert ratio["high"] == 3
    with pytest.raises(ValueError):
        ratio_of_neighbours(samples, reference[:-1])


def test_statistics():
    figures = statistics([5, 1, 2, 4, 3])
    assert figures == pytest.approx({"median": 3, "low": 2, "high": 4, "p90": 4.6, "min": 1})
    with pytest.raises(ValueError, match="no measurements"):
        statistics([])


def test_run_statistics():
    figures = run_statistics([{"a": 1, "b": 2}, {"a": 3}, {"a": 2, "b": 8}])
    assert figures["parts"] == {"a": 2, "b": 2}
    assert figures["median"] == 3


def test_clock_of_the_host():
    now = clock_of(torch.device("cpu"))
    assert now() <= now()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_clock():
    device = torch.device("cuda")
    x = torch.rand(512, 512, device=device)
    timer = PartTimer(clock_of(device))

    def run() -> None:
        with timer.part("products"):
            x @ x

    parts = timer.run(run)
    assert parts["products"] > 0
