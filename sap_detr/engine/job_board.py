"""What the processes of a job tell one another when collective calls no longer work.

The first process to fail writes so on a board, in the store at which all processes met, and tells
its error. All others, wherever they wait, read it and end, which a collective call would let them
do after half an hour only. Requests to stop travel the same way.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

from torch import distributed

from .preemption import PREEMPTED_STATUS, StopSignals
from .process_group import current_start, open_store
from .topology import Topology

# Seconds: between two looks at the board; in which the main thread may end by itself; in which the
# other processes read how the job ended before rank 0 leaves and takes the store along; that the
# main process may take to write its checkpoint.
_POLL, _GRACE, FAREWELL, _CHECKPOINT = 0.5, 3.0, 3.0, 600.0
_STORE_TIMEOUT = timedelta(seconds=30)


class JobBoard:
    """Notes that all processes of a job can write and read at any time.

    Args:
        topology: where the store is.
        start: name of this start of the job; None: the last one.

    Raises:
        Exception: by all methods, torch's, if the store is gone. It is rank 0's, or torchrun's.
    """

    def __init__(self, topology: Topology, start: str | None = None) -> None:
        # A connection of its own, because calls on one wait for one another.
        store = open_store(topology, _STORE_TIMEOUT)
        name = start or current_start(store)
        self._store = distributed.PrefixStore(f"{name}/board", store)
        self._others = [rank for rank in range(topology.world_size) if rank != topology.rank]
        self._rank = topology.rank

    def claim_failure(self, rank: int, status: int) -> bool:
        """Writes that a process failed, and with which exit status; False if another was first."""
        if self._store.add("failures", 1) > 1:
            return False
        self._store.set("failure", json.dumps({"rank": rank, "status": status}))
        return True

    def failure(self) -> tuple[int, int] | None:
        """Rank and exit status of the first process that failed."""
        if not self._store.check(["failure"]):
            return None
        note = json.loads(self._store.get("failure"))
        return note["rank"], note["status"]

    def request_stop(self) -> None:
        """Asks all processes to stop."""
        self._store.set("stop", "")

    @property
    def stop_requested(self) -> bool:
        return bool(self._store.check(["stop"]))

    def declare_stopped(self) -> None:
        """Writes that the main process has stopped; its checkpoint is whole."""
        self._store.set("stopped", "")

    @property
    def stopped(self) -> bool:
        return bool(self._store.check(["stopped"]))

    def mark_seen(self) -> None:
        """Writes that this process knows about the end of the job."""
        self._store.set(f"seen/{self._rank}", "")

    def wait_until_seen(self, seconds: float) -> None:
        """Waits for the other processes to know about the end of the job."""
        deadline = time.monotonic() + seconds
        seen = [f"seen/{rank}" for rank in self._others]
        while not self._store.check(seen) and time.monotonic() < deadline:
            time.sleep(_POLL / 10)


def wait_for_main_process(board: JobBoard, rank: int, done: threading.Event | None = None) -> int:
    """For a process that was asked to stop: waits until the main one has its checkpoint written.

    Args:
        board: of the job.
        rank: of this process. If it is the main one, it has, and tells the others.
        done: set if there is no need to wait any more.

    Returns:
        The exit status of the job.
    """
    # The store may be gone with the main process.
    with suppress(Exception):
        board.request_stop()
        if rank == 0:
            board.declare_stopped()
            board.wait_until_seen(FAREWELL)
        deadline = time.monotonic() + _CHECKPOINT
        while not board.stopped and time.monotonic() < deadline:
            if done is not None and done.is_set():
                break
            failure = board.failure()
            if failure is not None:
                return failure[1]
            time.sleep(_POLL / 5)
        board.mark_seen()
    return PREEMPTED_STATUS


class Watch(threading.Thread):
    """Reads the board while the main thread works, and ends a process that waits in vain.

    Args:
        rank: of this process.
        stop: is told of other processes' requests to stop, and passes on this one's.

    Attributes:
        board: the board, from when on it is known.
        status: exit status of the job, from when on it is to end.
    """

    def __init__(self, rank: int, stop: StopSignals) -> None:
        super().__init__(name="job watch", daemon=True)
        self.board: JobBoard | None = None
        self.status: int | None = None
        self._rank = rank
        self._stop_signals = stop
        self._request_known = False
        self._ended = threading.Event()

    def end(self) -> None:
        """Stops watching."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        deadline = None
        while not self._ended.wait(_POLL):
            reason = self._why_to_end()
            if reason is None:
                deadline = None
            elif deadline is None:
                deadline = time.monotonic() + _GRACE
            elif time.monotonic() > deadline:
                self._end_process(reason)

    def _why_to_end(self) -> str | None:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            return "the process that started it is gone"
        stop, board = self._stop_signals, self.board
        if board is not None:
            try:
                self._pass_on_request(board)
                failure = board.failure()
                if failure is not None or board.stopped:
                    self.status = PREEMPTED_STATUS if failure is None else failure[1]
                    board.mark_seen()
                    return "the job was stopped" if failure is None else f"rank {failure[0]} failed"
            except Exception:
                return "rank 0 is gone"
        if stop.requested and stop.raises and not stop.noticed:
            self.status = PREEMPTED_STATUS
            return "it was asked to stop, and waits for another process"
        return None

    def _pass_on_request(self, board: JobBoard) -> None:
        if self._request_known:
            return
        if self._stop_signals.requested:
            board.request_stop()
            self._request_known = True
        elif board.stop_requested:
            self._stop_signals.request()
            self._request_known = True

    def _end_process(self, reason: str) -> None:
        status = 1 if self.status is None else self.status
        if status == PREEMPTED_STATUS and self.board is not None:
            status = wait_for_main_process(self.board, self._rank, self._ended)
        if self._ended.is_set():
            # What the main thread waited for has come after all.
            return
        print(f"rank {self._rank} ends: {reason}", file=sys.stderr, flush=True)
        self._stop_signals.end_loader_workers()
        os._exit(status)
