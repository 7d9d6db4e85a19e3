"""Running a function in all processes of a job, however they are started.

They come from this command (one per GPU), from torchrun or from SLURM's srun; from there on they do
the same. Whatever happens in one of them, all end: with the same exit status, the first error told
first and in full.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import connection
from types import FrameType
from typing import Any, NoReturn

from detectron2.utils import comm
from torch import distributed

from ..config import ConfigError
from .job_board import FAREWELL, JobBoard, Watch, wait_for_main_process
from .preemption import PREEMPTED_STATUS, STOP_SIGNALS, Preempted, StopSignals
from .process_group import MeetingError, connect, disconnect
from .topology import Topology

ERROR_STATUS = 1
USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130

# Seconds: in which the cause of a lost connection may become known; in which the processes of this
# machine end by themselves when the first has ended.
_CAUSE, _GRACE = 3.0, 30.0


@dataclass(frozen=True)
class ProcessOptions:
    """What the processes of a job have in common.

    Attributes:
        device_type: "cuda" (one GPU per process, NCCL) or "cpu" (Gloo).
        timeout: after which a collective call fails that some process takes no part in.
        user_errors: exceptions that are told in one line.
    """

    device_type: str = "cpu"
    timeout: timedelta = timedelta(minutes=30)
    user_errors: tuple[type[Exception], ...] = ()


def launch(
    work: Callable[..., Any], topology: Topology, args: Sequence[Any], options: ProcessOptions
) -> int:
    """Runs ``work(stop, *args)`` in every process of a job.

    Either in processes started here, or in this one if it is the only one of its machine, or if
    torchrun or srun started it. Processes are connected by Detectron2's process groups.

    Args:
        work: can be pickled; ``stop`` is the process's :class:`StopSignals`.
        topology: the processes.
        args: further arguments.
        options: for all processes.

    Returns:
        The exit status: 0; 1 after an error and 2 after a mistake of the user, which were printed;
        :data:`PREEMPTED_STATUS` after a request to stop; 130 after Ctrl-C.

    Raises:
        Exception: what ``work`` raised, other than mistakes of the user, if there is one process.
    """
    if topology.world_size == 1:
        return _run_alone(work, args, options)
    if topology.local_rank is None and topology.processes_per_machine == 1:
        topology = replace(topology, local_rank=0)
    if topology.local_rank is not None:
        return _run_connected(topology, work, args, options)
    if topology.dist_url is None:
        topology = replace(topology, dist_url=f"tcp://127.0.0.1:{_free_port()}")
    return _start_processes(topology, work, args, options)


def once_per_machine(check: Callable[[], object], errors: tuple[type[Exception], ...]) -> None:
    """Calls ``check`` in one process of every machine.

    Args:
        check: its result is not used.
        errors: those that are passed on to the other processes.

    Raises:
        ConfigError: in all processes, with the message of the first of these errors.
    """
    message = None
    if comm.get_local_rank() == 0:
        try:
            check()
        except errors as error:
            message = str(error)
    messages = [text for text in comm.all_gather(message) if text is not None]
    if messages:
        raise ConfigError(messages[0])


def tell(error: Exception) -> None:
    """Prints a mistake of the user."""
    print(f"error: {error}", file=sys.stderr, flush=True)


def tell_preempted() -> None:
    """Prints that the run was asked to stop."""
    message = f"stopped by a signal (exit status {PREEMPTED_STATUS}); --resume continues the run"
    print(message, file=sys.stderr, flush=True)


def _run_alone(work: Callable[..., Any], args: Sequence[Any], options: ProcessOptions) -> int:
    try:
        with StopSignals() as stop:
            work(stop, *args)
    except options.user_errors as error:
        tell(error)
        return USER_ERROR_STATUS
    except Preempted:
        tell_preempted()
        return PREEMPTED_STATUS
    return 0


def _start_processes(
    topology: Topology, work: Callable[..., Any], args: Sequence[Any], options: ProcessOptions
) -> int:
    """Starts the processes of this machine, passes signals on to them, and waits for them."""
    processes: list[Any] = []
    signals: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        for process in processes:
            if process.exitcode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = {s: signal.signal(s, pass_on) for s in STOP_SIGNALS} if in_main_thread else {}
    try:
        context = multiprocessing.get_context("spawn")
        for local_rank in range(topology.processes_per_machine):
            own = replace(topology, local_rank=local_rank)
            process = context.Process(
                target=_started_process,
                args=(multiprocessing.get_start_method(), own, work, args, options),
            )
            process.start()
            processes.append(process)
            if signals:
                # It came too early for this one.
                process.terminate()
                signals.append(signal.SIGTERM)
        return _wait_for(processes, topology, signals)
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    finally:
        for process in processes:
            process.kill()
            process.join()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _started_process(start_method: str, *args: Any) -> None:
    # It would start workers of data loaders in the way it was started itself, so that each of them
    # imports everything and has a copy of the data set.
    multiprocessing.set_start_method(start_method, force=True)
    sys.exit(_run_connected(*args))


def _wait_for(processes: Sequence[Any], topology: Topology, signals: Sequence[int]) -> int:
    """Waits for the processes of this machine; returns the status of the first that failed."""
    status, deadline = 0, None
    running = {process.sentinel: process for process in processes}
    while running and (deadline is None or time.monotonic() < deadline):
        for sentinel in connection.wait(list(running), timeout=1.0):
            process = running.pop(sentinel)
            process.join()
            code = process.exitcode
            if code == 0:
                continue
            if -code in signals:
                # The process was not ready for the signal yet.
                code = PREEMPTED_STATUS
            elif code < 0:
                _tell_killed(process, topology.rank + processes.index(process), topology)
                code = ERROR_STATUS
            status = status or code
            deadline = deadline or time.monotonic() + _GRACE
    return status


def _tell_killed(process: Any, rank: int, topology: Topology) -> None:
    number = signal.Signals(-process.exitcode)
    advice = " Was there enough memory?" if number == signal.SIGKILL else ""
    print(
        f"error: rank {rank} (process {process.pid} on {socket.gethostname()}) was ended by "
        f"{number.name}.{advice}",
        file=sys.stderr,
        flush=True,
    )
    # Rank 0 took the board along.
    if rank != 0:
        with suppress(Exception):
            JobBoard(topology).claim_failure(rank, ERROR_STATUS)


def _run_connected(
    topology: Topology, work: Callable[..., Any], args: Sequence[Any], options: ProcessOptions
) -> int:
    """One of several processes: connects, works, and ends when the others do.

    Returns after success only: process groups that others are gone from can't be closed in order,
    so otherwise the process exits here.
    """
    with StopSignals() as stop:
        watch = Watch(topology.rank, stop)
        try:
            watch.start()
            start = connect(topology, options.device_type, options.timeout)
            watch.board = JobBoard(topology, start)
            work(stop, *args)
            disconnect()
            watch.end()
            return 0
        except Preempted:
            status = _end_preempted(watch, topology)
        except KeyboardInterrupt:
            status = INTERRUPTED_STATUS
        except Exception as error:
            # From here on it is too late for a request to stop.
            stop.noticed = True
            status = _end_failed(error, watch, topology, options)
        _exit(status, stop)


def _exit(status: int, stop: StopSignals) -> NoReturn:
    stop.end_loader_workers()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _end_preempted(watch: Watch, topology: Topology) -> int:
    if topology.rank == 0:
        tell_preempted()
    if watch.board is None:
        return PREEMPTED_STATUS
    return wait_for_main_process(watch.board, topology.rank)


def _end_failed(error: Exception, watch: Watch, topology: Topology, options: ProcessOptions) -> int:
    """Tells the error, in full if it is the first of the job; returns the status of the job."""
    if isinstance(error, MeetingError):
        # Without a board, every process tells its own.
        tell(error)
        return ERROR_STATUS
    mine = USER_ERROR_STATUS if isinstance(error, options.user_errors) else ERROR_STATUS
    lost = _is_lost_connection(error)
    cause = _find_cause(watch, topology.rank, mine, lost)
    if cause is None:
        if mine == USER_ERROR_STATUS:
            tell(error)
        else:
            _tell_in_full(error, topology, lost)
        # Rank 0 takes the board along.
        if topology.rank == 0 and watch.board is not None:
            with suppress(Exception):
                watch.board.wait_until_seen(FAREWELL)
        return mine
    rank, status = cause
    if status == ERROR_STATUS:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"rank {topology.rank} ends after rank {rank}: {line}", file=sys.stderr, flush=True)
    return status


def _find_cause(watch: Watch, rank: int, status: int, lost: bool) -> tuple[int, int] | None:
    """Rank and exit status of the process that ended the job; None if it is this one."""
    board = watch.board
    if board is None:
        return None
    deadline = time.monotonic() + _CAUSE
    try:
        # Who ended, and thereby closed a connection, has written so before; a parent or torchrun
        # may still be about to tell of a process that was killed.
        while lost and not board.stopped and board.failure() is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        board.mark_seen()
        if board.stopped:
            return 0, PREEMPTED_STATUS
        if board.failure() is None and board.claim_failure(rank, status):
            return None
        while board.failure() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return board.failure() or (0, ERROR_STATUS)
    except Exception:
        # The store was rank 0's.
        return (0, watch.status or ERROR_STATUS) if rank != 0 else None


def _is_lost_connection(error: Exception) -> bool:
    """Whether an error looks like the consequence of another process's end."""
    names = ("DistBackendError", "DistNetworkError")
    kinds = tuple(getattr(distributed, name) for name in names if hasattr(distributed, name))
    words = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused")
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)
    )


def _tell_in_full(error: Exception, topology: Topology, lost: bool) -> None:
    text = "".join(traceback.format_exception(error)).rstrip()
    where = f"rank {topology.rank} of {topology.world_size} on {socket.gethostname()}"
    advice = (
        "\nThe connection to another process was lost. If none tells of an error above, it was "
        "killed (was there enough memory?), or the network failed."
    )
    print(f"{where} failed:\n{text}{advice if lost else ''}", file=sys.stderr, flush=True)
    # torchrun takes its summary from a file.
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
        message = {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}
        with suppress(OSError), open(path, "w") as file:
            json.dump({"message": message}, file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
