"""What the processes of a job tell one another when collective calls no longer work.

The first process to fail writes so on a board, in the store at which the job met, and tells its
error. All others, wherever they wait, read it and end, which a collective call would let them do
after half an hour only. Requests to stop travel the same way.
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

from .preemption import PREEMPTED_STATUS, STOP_SIGNALS, StopSignals
from .process_group import open_store
from .topology import Topology

# Seconds: between two looks at the board; in which a process may end by itself, and one that has
# started others; in which the others read how the job ended before the board goes with its
# process; that the main process may take to write its checkpoint.
_POLL, _GRACE, _GRACE_OF_STARTER, _READING, _CHECKPOINT = 0.5, 3.0, 15.0, 3.0, 600.0
_STORE_TIMEOUT = timedelta(seconds=30)


class JobBoard:
    """Notes that all processes of a job can write and read at any time.

    Args:
        topology: where the store is, and who this is.
        start: name of this start of the job, see :func:`~sap_detr.engine.process_group.meet`.

    Raises:
        Exception: by all methods, torch's, if the store is gone with the process that has it.
    """

    def __init__(self, topology: Topology, start: str) -> None:
        # A connection of its own, because calls on one wait for one another.
        store = open_store(topology, _STORE_TIMEOUT)
        self._store = distributed.PrefixStore(f"{start}/board", store)
        first = topology.machine_rank * topology.processes_per_machine
        self._here = range(first, first + topology.processes_per_machine)
        self._rank = None if topology.local_rank is None else topology.rank
        # Who started the processes of a machine has seen their end anyway.
        own = self._here if self._rank is None else [self._rank]
        self._others = [rank for rank in range(topology.world_size) if rank not in own]
        if self._rank is not None:
            self._store.set(f"process/{self._rank}", str(os.getpid()))

    def declare_end(self, rank: int, status: int) -> tuple[int, int]:
        """Write that the job ends because of a process, and with which exit status.

        Returns:
            Rank and exit status of the process that was the first to write.
        """
        mine = json.dumps([rank, status])
        first, its_status = json.loads(self._store.compare_set("end", "", mine))
        return first, its_status

    def end(self) -> tuple[int, int] | None:
        """Return what was declared first; (0, 85) once the main process has its checkpoint."""
        if not self._store.check(["end"]):
            return None
        rank, status = json.loads(self._store.get("end"))
        return rank, status

    def request_stop(self) -> None:
        """Ask all processes to stop."""
        self._store.set("stop", "")

    def stop_requested(self) -> bool:
        """Say whether somebody asked."""
        return bool(self._store.check(["stop"]))

    def signal_neighbours(self) -> None:
        """Ask this machine's processes to stop, as far as they are ready, before they look here."""
        with suppress(Exception):
            for pid in self._neighbours().values():
                with suppress(ProcessLookupError):
                    os.kill(pid, STOP_SIGNALS[-1])

    def lost_neighbour(self) -> int | None:
        """Return the rank of a process of this machine that is not there any more."""
        for rank, pid in self._neighbours().items():
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return rank
        return None

    def _neighbours(self) -> dict[int, int]:
        """Return the process ids of this machine's ranks, as far as they are ready."""
        ready = [rank for rank in self._here if self._store.check([f"process/{rank}"])]
        return {rank: int(self._store.get(f"process/{rank}")) for rank in ready}

    def mark_seen(self) -> None:
        """Write that this process knows about the end of the job."""
        if self._rank is not None:
            self._store.set(f"seen/{self._rank}", "")

    def wait_until_seen(self) -> None:
        """Give the others a moment to learn about the end of the job."""
        deadline = time.monotonic() + _READING
        seen = [f"seen/{rank}" for rank in self._others]
        while seen and not self._store.check(seen) and time.monotonic() < deadline:
            time.sleep(_POLL / 10)


def wait_for_main_process(board: JobBoard, rank: int, done: threading.Event | None = None) -> int:
    """Wait, in a process that was asked to stop, until the main one has its checkpoint written.

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
            board.declare_end(0, PREEMPTED_STATUS)
            board.wait_until_seen()
        deadline = time.monotonic() + _CHECKPOINT
        while time.monotonic() < deadline and not (done is not None and done.is_set()):
            end = board.end()
            if end is not None:
                board.mark_seen()
                return end[1]
            time.sleep(_POLL / 5)
    return PREEMPTED_STATUS


class Watch(threading.Thread):
    """Reads the board while the main thread works or waits, and ends a process that waits in vain.

    It runs in every process of the job, and in those that start the processes of a machine: their
    children may still be in Detectron2's ``launch``, where they read nothing.

    Args:
        topology: with who this process is.
        stop: is told of other processes' requests to stop, and passes on this one's.

    Attributes:
        board: the board, from when on it is known.
        status: exit status of the job, from when on it is to end.
    """

    def __init__(self, topology: Topology, stop: StopSignals) -> None:
        super().__init__(name="job watch", daemon=True)
        self.board: JobBoard | None = None
        self.status: int | None = None
        self._topology = topology
        self._stop_signals = stop
        self._ended = threading.Event()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Watch until the end."""
        deadline = None
        grace = _GRACE_OF_STARTER if self._topology.local_rank is None else _GRACE
        while not self._ended.wait(_POLL):
            reason = self._why_to_end()
            if reason is None:
                deadline = None
            elif deadline is None:
                deadline = time.monotonic() + grace
            elif time.monotonic() > deadline:
                self._end_process(reason)

    def _why_to_end(self) -> str | None:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            return "the process that started it is gone"
        stop, board = self._stop_signals, self.board
        if board is not None:
            try:
                end = board.end()
                if end is None:
                    self._pass_on_requests(board)
                else:
                    self.status = end[1]
                    board.mark_seen()
                    stopped = self.status == PREEMPTED_STATUS
                    return "the job was stopped" if stopped else f"rank {end[0]} failed"
            except Exception:
                return "the first process of the job is gone"
        # If it was interrupted, something has caught that.
        if stop.requested and stop.raises and (stop.interrupted or not stop.noticed):
            self.status = PREEMPTED_STATUS
            return "it was asked to stop, and waits for another process"
        return None

    def _pass_on_requests(self, board: JobBoard) -> None:
        stop = self._stop_signals
        if stop.terminated and not stop.requested:
            # By torch.multiprocessing, because a process of this machine ended badly; or by the
            # user, who asks to stop. The first has left the process table by now.
            lost = board.lost_neighbour()
            if lost is not None:
                board.declare_end(lost, 1)
                return
            stop.request()
        if stop.requested:
            board.request_stop()
        elif board.stop_requested():
            stop.request()

    def _end_process(self, reason: str) -> None:
        kind, index, _ = self._topology.participant
        status = 1 if self.status is None else self.status
        if status == PREEMPTED_STATUS and self.board is not None:
            rank = index if kind == "rank" else -1
            status = wait_for_main_process(self.board, rank, self._ended)
        if self._ended.is_set():
            # What the main thread waited for has come after all.
            return
        print(f"{kind} {index} ends: {reason}", file=sys.stderr, flush=True)
        self._stop_signals.end_children()
        os._exit(status)
