"""Signals that ask a run to stop."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import jobs
import pytest
import torch
from detectron2.engine import HookBase

from sap_detr.checkpoint import load_checkpoint_file
from sap_detr.engine import (
    PREEMPTED_STATUS,
    DetectionTrainer,
    Preempted,
    PreemptionHook,
    StopSignals,
    preemption,
)
from sap_detr.engine.main import main


@pytest.fixture
def arguments(tiny_overrides):
    changes = ["train.eval_period=0", "train.ema.enabled=true", "train.max_iter=6"]
    return [*jobs.CONFIG, *tiny_overrides, *changes]


def wait_until(condition):
    """Signals are heard by a thread."""
    deadline = time.perf_counter() + 10
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.001)


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def send_and_wait(number=signal.SIGTERM):
    """For requests that raise: in the main thread, which waits."""
    send(number)
    time.sleep(jobs.PATIENCE)
    pytest.fail("slept through it")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_raise_at_once_or_wait(number):
    before = signal.getsignal(number)
    with pytest.raises(Preempted), StopSignals():
        send_and_wait(number)
    with StopSignals() as stop, stop.deferred():
        send(number)
        wait_until(lambda: stop.requested)
        # A request that waits interrupts what may be interrupted, once.
        with pytest.raises(Preempted), stop.at_once():
            pytest.fail("went on")
    with StopSignals() as stop, pytest.raises(Preempted):
        stop.raise_preempted()
    # On the way out, the next request does not raise again.
    with StopSignals() as stop:
        with pytest.raises(Preempted):
            send_and_wait(number)
        stop._first_arrival = None
        send(number)
        wait_until(lambda: stop._first_arrival is not None)
    assert signal.getsignal(number) == before


def test_what_wakes_the_main_thread_is_repeated_until_it_does(monkeypatch):
    woken = []

    def lost_at_first(thread, number):
        woken.append(number)
        if len(woken) > 2:
            os.kill(os.getpid(), number)

    # One that comes just before a system call does not interrupt that.
    monkeypatch.setattr(preemption.signal, "pthread_kill", lost_at_first)
    with pytest.raises(Preempted), StopSignals():
        send_and_wait()
    assert len(woken) >= 3
    assert set(woken) == {signal.SIGURG}


def test_a_request_is_not_made_another_error():
    def catches_everything():
        try:
            send_and_wait()
        except BaseException as error:
            raise ImportError from error

    with pytest.raises(Preempted), StopSignals():
        catches_everything()
    with StopSignals() as stop:
        with suppress(BaseException):
            send_and_wait()
        # Training does not begin.
        with pytest.raises(Preempted), stop.deferred():
            pytest.fail("went on")


def test_a_second_signal_ends_at_once(monkeypatch):
    now = 100.0
    ended = []
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now)
    monkeypatch.setattr(preemption.os, "_exit", ended.append)
    with StopSignals() as stop, stop.deferred():
        # Another process's request is not the user's first signal.
        stop.request()
        assert stop.requested
        # The same request, also by way of a parent process.
        send()
        wait_until(lambda: stop._first_arrival == 100)
        now = 102.0
        send()
        # Signals of one kind are heard in their order.
        time.sleep(0.05)
        assert not ended
        now = 110.0
        send(signal.SIGUSR1)
        wait_until(lambda: ended)
        assert ended == [128 + signal.SIGUSR1]


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter():
        with StopSignals() as stop:
            stop.request()
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(True, before)]


SIGNALS_TO_HELPERS = """
import multiprocessing, os, sys
from multiprocessing import resource_tracker
from torch.utils.data import DataLoader
from sap_detr.engine import StopSignals, preemption

multiprocessing.set_start_method(sys.argv[1])
with StopSignals() as stop, stop.deferred():
    loader = DataLoader(range(8), num_workers=1)
    batches = iter(loader)
    # The worker is just starting.
    (worker,) = multiprocessing.active_children()
    for pid in (worker.pid, resource_tracker._resource_tracker._pid):
        for number in preemption.STOP_SIGNALS:
            os.kill(pid, number)
    assert [int(batch) for batch in batches] == list(range(8))
    batches = iter(loader)
    next(batches)
    assert not stop.requested
assert not multiprocessing.active_children()
"""


@pytest.mark.parametrize(
    "start_method",
    ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("forkserver", "spawn"))],
)
def test_signals_take_no_helper_away(start_method):
    """In a process of its own: helpers that another test has started do not know of the mask."""
    command = [sys.executable, "-c", SIGNALS_TO_HELPERS, start_method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=jobs.PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]


class SignalAfter(HookBase):
    """Sends a signal to the whole process group of the workers and to this process."""

    def __init__(self, iteration, stop):
        self.iteration = iteration
        self.stop = stop

    def after_step(self):
        if self.trainer.iter == self.iteration:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGTERM)
            send()
            wait_until(lambda: self.stop.requested)


@pytest.fixture
def signal_after(monkeypatch):
    """Lets runs of this process get a signal during an iteration."""
    build_hooks = DetectionTrainer.build_hooks
    iterations = []

    def with_signal(self):
        hooks = build_hooks(self)
        (stop,) = [hook.stop for hook in hooks if isinstance(hook, PreemptionHook)]
        return [*(SignalAfter(i, stop) for i in iterations), *hooks]

    monkeypatch.setattr(DetectionTrainer, "build_hooks", with_signal)
    return iterations.append


def assert_same_state(first, second):
    for part in ("model", "raw_model"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), f"{part}: {name}"


def test_stopped_run_goes_on_as_if_nothing_had_happened(arguments, signal_after, tmp_path, capfd):
    changes = ["dataloader.test.dataset.names=[]", "dataloader.train.num_workers=1"]
    whole, parts = (f"train.output_dir={tmp_path / name}" for name in ("whole", "parts"))
    assert main([*arguments, *changes, whole]) == 0

    signal_after(2)
    assert main([*arguments, *changes, parts]) == PREEMPTED_STATUS
    assert "--resume" in capfd.readouterr().err
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not (tmp_path / "parts" / "model_final.pth").exists()

    assert main([*arguments[:2], "--resume", *arguments[2:], *changes, parts]) == 0
    final = [load_checkpoint_file(tmp_path / n / "model_final.pth") for n in ("whole", "parts")]
    assert_same_state(*final)


@pytest.fixture
def stop_in_evaluation(monkeypatch):
    evaluated = []

    def stopped(cfg, model, evaluators=None):
        evaluated.append(model.decoder.query_embed.weight.clone())
        send_and_wait()

    monkeypatch.setattr(DetectionTrainer, "test", staticmethod(stopped))
    return evaluated


def test_evaluation_is_interrupted(arguments, stop_in_evaluation, tmp_path):
    assert main([*arguments, "train.eval_period=3"]) == PREEMPTED_STATUS
    checkpoint = load_checkpoint_file(tmp_path / "run" / "model_0000002.pth")
    assert checkpoint["trainer"]["iteration"] == 2
    # It holds the raw weights, too, though the average was in the model when the signal came.
    name = "decoder.query_embed.weight"
    assert torch.equal(checkpoint["model"][name], stop_in_evaluation[0])
    assert not torch.equal(checkpoint["raw_model"][name], stop_in_evaluation[0])

    # After the last step there is a final checkpoint, and the evaluation is still to be done.
    resume = [*arguments[:2], "--resume", *arguments[2:]]
    assert main(resume) == PREEMPTED_STATUS
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_processes_agree_on_the_step(where, arguments, tmp_path):
    period = f"train.eval_period={3 if where == 'evaluation' else 0}"
    # The main process, which writes the checkpoint, gets no signal.
    ranks = jobs.run_ranks(
        tmp_path,
        [*arguments, "train.max_iter=2000", period],
        script=jobs.FAULTY_TRAIN,
        FAULT=f"stop in {where} 1",
    )
    assert jobs.finish_all(ranks) == [PREEMPTED_STATUS] * 2
    last = (tmp_path / "run" / "last_checkpoint").read_text()
    # In training, processes know of a signal one step later.
    assert last == ("model_0000002.pth" if where == "evaluation" else "model_0000003.pth")
    checkpoint = load_checkpoint_file(tmp_path / "run" / last)
    assert checkpoint["trainer"]["iteration"] == int(last[6:13])


@pytest.mark.slow
def test_signal_to_all_processes_that_were_started_here(arguments, tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    command = jobs.Command(
        tmp_path / "log.txt",
        ["--num-gpus", "2", *arguments, "dataloader.train.num_workers=1"],
        jobs.FAULTY_TRAIN,
        {"FAULT": "hold in training 0", "HOLD": str(hold)},
    )
    metrics = tmp_path / "run" / "metrics.json"
    try:
        # All have done two iterations by then: workers of loaders run.
        command.wait_for(lambda: "holding" in command.output)
        command.kill(signal.SIGTERM)
        command.wait_for(lambda: "ends after this step" in command.output)
    finally:
        hold.unlink()
    assert command.finish() == PREEMPTED_STATUS, command.output[-3000:]
    assert (tmp_path / "run" / "last_checkpoint").read_text() in {
        f"model_000000{i}.pth" for i in (1, 2, 3)
    }
    assert metrics.exists()
