"""Ending a run when the machine is to be given back, so that it can be continued.

SIGTERM or SIGUSR1 ends training after a step, with a checkpoint. All processes must end after the
same step, though the signal reaches one before another. So after every step they vote, on the CPU:
each starts an ``all_reduce`` of its wish and reads the result one step later, when it has long been
there. Nobody waits for the vote and no GPU is synchronised; it costs one more step.

Outside of training, and in its evaluations, nothing is left to be saved and the run ends at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any, NoReturn

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import distributed

from ..checkpoint import FINAL, SafeCheckpointer, step_name

# Exit status of a run that was asked to stop and can be continued: ERESTART of Linux.
PREEMPTED_STATUS = 85
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# The same request may come several times: from the scheduler and passed on by a parent process.
_REPEAT_SECONDS = 3.0
# Interrupts a system call of the main thread. Without a handler it is ignored.
_NUDGE = signal.SIGURG
# A nudge that comes just before a system call does not interrupt it: it is repeated.
_NUDGE_SECONDS = 0.5


class Preempted(BaseException):
    """The run was asked to stop. Not an error, so ``except Exception`` does not see it."""


class StopSignals:
    """Turns SIGTERM and SIGUSR1 into a request to stop, inside a ``with`` block.

    The first request raises :class:`Preempted` in the main thread; within :meth:`deferred` it only
    sets ``requested``, and within :meth:`at_once` inside of that it raises again. A second signal,
    more than three seconds after the first, ends the process there and then.

    Python runs signal handlers when the main thread is back in Python, which may be never if it
    waits for another process. So a thread listens: it sets ``requested`` at once, lets the main
    thread look at it, and obeys the second signal.

    That thread is the one that gets the signals; in the main thread they are blocked, so that they
    are in all that it starts: a signal to the process group takes away no worker of a loader, no
    fork server and no resource tracker, however they are started and however young they are.
    Within :meth:`mortal_children` it is not so.

    Signals belong to the main thread: in others the block does nothing.

    Args:
        sigterm_is_request: False if SIGTERM may have another meaning, and only sets ``terminated``.
            Detectron2's ``launch`` sends it to all processes when one of them ended badly. The
            process that started this one is the one to tell of a signal, then.

    Attributes:
        requested: whether there was a request.
        raises: whether a request ends the run where it is, so that nothing would be lost.
        noticed: whether the main thread knows.
        interrupted: whether :class:`Preempted` was raised. Code that catches everything, such as an
            import, may have made another error of it, which the end of the block turns back.
        terminated: whether there was a SIGTERM that someone has to find the meaning of.
        pass_on: is called at once, in another thread, at the first signal to this process.
    """

    def __init__(self, sigterm_is_request: bool = True) -> None:
        self.requested = False
        self.terminated = False
        self.noticed = False
        self.interrupted = False
        self.pass_on: Callable[[], object] | None = None
        self._unclear = () if sigterm_is_request else (signal.SIGTERM,)
        self.raises = True
        self._first_arrival: float | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._other_children: set[int | None] = set()

    def __enter__(self) -> StopSignals:
        self._other_children = {child.pid for child in multiprocessing.active_children()}
        if threading.current_thread() is not threading.main_thread():
            return self
        self._previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        # It obeys SIGUSR1. In some versions of Python, starting it unblocks SIGTERM here.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._arrivals, self._bell = socket.socketpair()
        self._arrivals.settimeout(_NUDGE_SECONDS)
        self._bell.setblocking(False)
        # Python writes the numbers of signals there, whatever the main thread is doing.
        self._previous_bell = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        handled = (*STOP_SIGNALS, _NUDGE)
        self._previous = {number: signal.signal(number, self._notice) for number in handled}
        self._listener = threading.Thread(target=self._listen, name="stop signals", daemon=True)
        self._listener.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, place: object) -> None:
        if not self._previous:
            return
        self.noticed = True
        self.end_children()
        # First the listener: what comes after it is not lost if the caller has blocked the signals.
        signal.set_wakeup_fd(self._previous_bell)
        self._bell.close()
        self._listener.join()
        self._arrivals.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous_mask)
        if self.interrupted and isinstance(error, Exception):
            raise Preempted from error

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let requests wait until someone looks at ``requested``.

        Raises:
            Preempted: again, if there was one before that something has caught.
        """
        if self.interrupted:
            self.raise_preempted()
        before, self.raises = self.raises, False
        try:
            yield
        finally:
            self.raises = before

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let requests, also one that waits, raise :class:`Preempted`."""
        before, self.raises = self.raises, True
        try:
            if self.requested:
                self.raise_preempted()
            yield
        finally:
            self.raises = before

    @contextmanager
    def mortal_children(self) -> Iterator[None]:
        """Let signals end the child processes that are started inside, until these handle them."""
        before = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def raise_preempted(self) -> NoReturn:
        """Raise :class:`Preempted` here, and for later requests nowhere any more."""
        self.requested = self.noticed = self.interrupted = True
        raise Preempted

    def request(self) -> None:
        """Pass on another process's request, from any thread."""
        self.requested = True
        if self._previous:
            self._nudge()

    def end_children(self) -> None:
        """End the child processes that were started inside the block and are left.

        In them the SIGTERM is blocked by which multiprocessing would end them.
        """
        children = multiprocessing.active_children()
        left = [child for child in children if child.pid not in self._other_children]
        if not left:
            return
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:
            # torch's handler would raise an error because a worker was killed.
            handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for child in left:
            child.kill()
        for child in left:
            child.join()
        if in_main_thread:
            signal.signal(signal.SIGCHLD, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        """Handle all signals, in the main thread."""
        if self.requested and not self.noticed:
            self.noticed = True
            if self.raises:
                self.raise_preempted()

    def _nudge(self) -> None:
        """Let the main thread look for requests now, also if it sleeps."""
        signal.pthread_kill(threading.main_thread().ident or 0, _NUDGE)

    def _listen(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        while True:
            try:
                numbers = self._arrivals.recv(64)
            except TimeoutError:
                if self.requested and not self.noticed:
                    self._nudge()
                continue
            if not numbers:
                return
            for number in numbers:
                if number in STOP_SIGNALS:
                    self._on_arrival(number)
                    self._nudge()

    def _on_arrival(self, number: int) -> None:
        if number in self._unclear:
            self.terminated = True
            return
        self.requested = True
        now = time.monotonic()
        if self._first_arrival is None:
            self._first_arrival = now
            if self.pass_on is not None:
                self.pass_on()
            if comm.is_main_process() and not self._unclear:
                name = signal.Signals(number).name
                when = "ends" if self.raises else "ends after this step; once more to end it now"
                print(f"{name}: the run {when}", file=sys.stderr, flush=True)
        elif now - self._first_arrival > _REPEAT_SECONDS:
            self.end_children()
            os._exit(128 + number)


class PreemptionHook(HookBase):  # type: ignore[misc]
    """Saves a checkpoint and ends training after the step at which all processes know of a request.

    Place it behind the periodic checkpoints, and before the evaluation, which may take longer than
    there is time.

    Args:
        stop: whom the request reaches in this process.
        checkpointer: does the saving.
        period: of the periodic checkpoints, in iterations.
    """

    def __init__(self, stop: StopSignals, checkpointer: SafeCheckpointer, period: int) -> None:
        self.stop = stop
        self._checkpointer = checkpointer
        self._period = period
        self._group: Any = None
        self._vote: Any = None

    def before_train(self) -> None:
        if comm.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo")
            self._wish = torch.zeros(1, dtype=torch.int32)

    def after_step(self) -> None:
        if self._agreed():
            self._checkpointer.require_saved(self.save())
            self.stop.raise_preempted()

    def save(self) -> str:
        """Write a checkpoint of the step that was just taken, if there is none yet.

        Returns:
            Its name.
        """
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            return FINAL
        name = step_name(done - 1)
        if done % self._period != 0:
            self._checkpointer.save(name, iteration=done - 1)
        return name

    def _agreed(self) -> bool:
        if self._group is None:
            return self.stop.requested
        if self._vote is not None:
            self._vote.wait()
            self._vote = None
            if self._wish.item():
                return True
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self._wish.fill_(int(self.stop.requested))
            self._vote = distributed.all_reduce(
                self._wish, op=distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
        return False
