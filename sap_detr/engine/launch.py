"""Running a function in all processes of a job, however they are started.

They come from Detectron2's ``launch`` (one per GPU), from torchrun or from SLURM's srun; from there
on they do the same. Whatever happens in one of them, all end: with the same exit status, the first
error told first and in full. Detectron2's ``launch`` ends the processes of one machine only, and
passes no exit status on; what this module and :mod:`~sap_detr.engine.job_board` add is the rest.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NoReturn, cast
from urllib.parse import urlparse

import torch
from detectron2.engine import launch as start_processes
from detectron2.utils import comm
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ..errors import UserError
from .job_board import JobBoard, Watch, wait_for_main_process
from .preemption import PREEMPTED_STATUS, STOP_SIGNALS, Preempted, StopSignals
from .process_group import MeetingError, connect, meet, share_cores
from .topology import Topology, tcp_url

ERROR_STATUS = 1
USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130

# Told in one line instead of a traceback.
USER_ERRORS = (UserError, FileNotFoundError)

# Seconds in which the cause of a lost connection may become known.
_CAUSE = 3.0


@dataclass(frozen=True)
class ProcessOptions:
    """What the processes of a job have in common.

    Attributes:
        device_type: "cuda" (one GPU per process, NCCL) or "cpu" (Gloo).
        timeout: after which a collective call fails that some process takes no part in.
    """

    device_type: str = "cpu"
    timeout: timedelta = timedelta(minutes=30)


def launch(
    work: Callable[..., Any], topology: Topology, args: Sequence[Any], options: ProcessOptions
) -> int:
    """Run ``work(stop, *args)`` in every process of a job.

    Either in processes that Detectron2's ``launch`` starts here, or in this one if it is the only
    one of the job, or if torchrun or srun started it. All are in Detectron2's process groups.

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
    if topology.world_size > 1 and topology.local_rank is None:
        return _start_processes(topology, work, args, options)
    if topology.world_size > 1:
        return _run_rank(topology, None, work, args, options)
    try:
        with StopSignals() as stop:
            work(stop, *args)
    except USER_ERRORS as error:
        print_error(error)
        return USER_ERROR_STATUS
    except Preempted:
        print_preempted()
        return PREEMPTED_STATUS
    return 0


def print_error(error: Exception) -> None:
    """Print a mistake of the user."""
    print(f"error: {error}", file=sys.stderr, flush=True)


def print_preempted() -> None:
    """Print that the run was asked to stop."""
    message = f"stopped by a signal (exit status {PREEMPTED_STATUS}); --resume continues the run"
    print(message, file=sys.stderr, flush=True)


def _start_processes(
    topology: Topology, work: Callable[..., Any], args: Sequence[Any], options: ProcessOptions
) -> int:
    """Start the processes of this machine and wait for them; return the status of the job."""
    # That torch ends the others when one has failed: the processes tell why.
    logging.getLogger(ProcessExitedException.__module__).setLevel(logging.ERROR)
    url = topology.dist_url or tcp_url("127.0.0.1", _free_port())
    topology = replace(topology, dist_url=url)
    with StopSignals() as stop:
        watch = Watch(topology, stop)
        try:
            # The store is in this process: it outlives those that are started.
            store, start = meet(topology, options.timeout)
            board = watch.board = JobBoard(topology, start)
            url = _launch_url(topology, store, start)
            job = (multiprocessing.get_start_method(), topology, start, work, args, options)
            # A request that comes before they are ready, the processes read on the board.
            stop.pass_on = board.signal_neighbours
            # torch ends them by SIGTERM if one fails, maybe before they can handle it.
            with stop.deferred(), stop.mortal_children(), _visible_devices(options.device_type):
                watch.start()
                start_processes(
                    _run_started_rank,
                    topology.processes_per_machine,
                    num_machines=topology.num_machines,
                    machine_rank=topology.machine_rank,
                    dist_url=url,
                    args=job,
                    timeout=options.timeout,
                )
            return 0
        except MeetingError as error:
            print_error(error)
            return ERROR_STATUS
        except Preempted:
            print_preempted()
            return PREEMPTED_STATUS
        except KeyboardInterrupt:
            return INTERRUPTED_STATUS
        except (ProcessExitedException, ProcessRaisedException) as error:
            status = _status_of_process(error, topology, stop)
            with suppress(Exception):
                board.declare_end(topology.rank + error.error_index, status)
                if topology.machine_rank == 0:
                    board.wait_until_seen()
            return status
        finally:
            stop.end_children()
            if watch.is_alive():
                watch.end()


def _launch_url(topology: Topology, store: distributed.Store, start: str) -> str:
    """Find an address for Detectron2's ``launch`` on machine 0; the user's is that of the store."""
    if topology.num_machines == 1:
        return "auto"
    key = f"{start}/port"
    if topology.machine_rank == 0:
        store.set(key, str(_free_port()))
    return tcp_url(str(urlparse(topology.dist_url).hostname), int(store.get(key)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _visible_devices(device_type: str) -> Iterator[None]:
    """Hide the GPUs from processes that are to run on the CPU.

    Detectron2's ``launch`` takes NCCL wherever it sees one.
    """
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    hide = device_type == "cpu" and torch.cuda.is_available()
    if hide:
        os.environ[name] = ""
    try:
        yield
    finally:
        if hide:
            os.environ.pop(name)
            os.environ.update({} if before is None else {name: before})


def _status_of_process(
    error: ProcessExitedException | ProcessRaisedException, topology: Topology, stop: StopSignals
) -> int:
    """Return the status that the end of a process means; tell what it could not tell itself."""
    rank = topology.rank + error.error_index
    where = f"rank {rank} (process {error.error_pid} on {socket.gethostname()})"
    if isinstance(error, ProcessRaisedException):
        # Before ``work``, in Detectron2.
        print(f"error: {where} failed:{error}", file=sys.stderr, flush=True)
        return ERROR_STATUS
    if error.exit_code >= 0:
        return int(error.exit_code)
    number = -error.exit_code
    if stop.requested and number in STOP_SIGNALS:
        # The process was not ready for the signal yet.
        print_preempted()
        return PREEMPTED_STATUS
    advice = " Was there enough memory?" if number == signal.SIGKILL else ""
    name = signal.Signals(number).name
    print(f"error: {where} was ended by {name}.{advice}", file=sys.stderr, flush=True)
    return ERROR_STATUS


def _run_started_rank(start_method: str, topology: Topology, *job: Any) -> NoReturn:
    # It would start workers of data loaders in the way it was started itself, so that each of them
    # imports everything and has a copy of the data set.
    multiprocessing.set_start_method(start_method, force=True)
    # Past Detectron2, which closes process groups in some versions and not in others.
    sys.exit(_run_rank(replace(topology, local_rank=comm.get_local_rank()), *job))


def _run_rank(
    topology: Topology,
    start: str | None,
    work: Callable[..., Any],
    args: Sequence[Any],
    options: ProcessOptions,
) -> int:
    """Connect, work, and end when the others do, as one of several processes.

    Returns after success only: process groups that others are gone from can't be closed in order,
    so otherwise the process exits here.

    Args:
        topology: with ``local_rank``.
        start: name of this start of the job; None: the process is not connected yet.
        work: the function.
        args: its arguments.
        options: as for all processes.
    """
    with StopSignals(sigterm_is_request=start is None) as stop:
        watch = Watch(topology, stop)
        try:
            watch.start()
            if options.device_type == "cpu":
                share_cores(topology)
            if start is None:
                start = connect(topology, options.device_type, options.timeout)
            watch.board = JobBoard(topology, start)
            work(stop, *args)
            comm.synchronize()
            distributed.destroy_process_group()
            watch.end()
            return 0
        except KeyboardInterrupt:
            status = INTERRUPTED_STATUS
        except (Preempted, Exception) as error:
            # From here on it is too late for a request to stop.
            stop.noticed = True
            if stop.interrupted:
                status = _end_preempted(watch, topology)
            else:
                status = _end_failed(cast(Exception, error), watch, topology)
        stop.end_children()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end_preempted(watch: Watch, topology: Topology) -> int:
    """Wait for the main process's checkpoint; return the status of the job."""
    status = PREEMPTED_STATUS
    if watch.board is not None:
        status = wait_for_main_process(watch.board, topology.rank)
    if topology.rank == 0 and status == PREEMPTED_STATUS:
        print_preempted()
    return status


def _end_failed(error: Exception, watch: Watch, topology: Topology) -> int:
    """Tell the error, in full if it is the first of the job; return the status of the job."""
    if isinstance(error, MeetingError):
        # Without a board, every process tells its own.
        print_error(error)
        return ERROR_STATUS
    mine = USER_ERROR_STATUS if isinstance(error, USER_ERRORS) else ERROR_STATUS
    lost = _is_lost_connection(error)
    rank, status = _find_cause(watch, topology.rank, mine, lost)
    if rank == topology.rank:
        if status == USER_ERROR_STATUS:
            print_error(error)
        else:
            _print_in_full(error, topology, lost)
        # Rank 0 may take the board along.
        if rank == 0 and watch.board is not None:
            with suppress(Exception):
                watch.board.wait_until_seen()
    elif status == ERROR_STATUS:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"rank {topology.rank} ends after rank {rank}: {line}", file=sys.stderr, flush=True)
    return status


def _find_cause(watch: Watch, rank: int, status: int, lost: bool) -> tuple[int, int]:
    """Return rank and exit status of the process that ended the job, which may be this one."""
    board = watch.board
    if board is None:
        return rank, status
    deadline = time.monotonic() + _CAUSE
    try:
        # Who ended, and thereby closed a connection, has written so before; a parent or torchrun
        # may still be about to tell of a process that was killed.
        while lost and board.end() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        board.mark_seen()
        return board.declare_end(rank, status)
    except Exception:
        # The store is gone; mostly it was rank 0's.
        return 0, watch.status or (ERROR_STATUS if rank != 0 else status)


def _is_lost_connection(error: Exception) -> bool:
    """Say whether an error looks like the consequence of another process's end."""
    names = ("DistBackendError", "DistNetworkError")
    kinds = tuple(getattr(distributed, name) for name in names if hasattr(distributed, name))
    words = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused")
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError | OSError) and any(word in str(error) for word in words)
    )


def _print_in_full(error: Exception, topology: Topology, lost: bool) -> None:
    text = "".join(traceback.format_exception(error)).rstrip()
    where = f"rank {topology.rank} of {topology.world_size} on {socket.gethostname()}"
    advice = (
        "\nThe connection to another process was lost. If none tells of an error above, it was "
        "killed (was there enough memory?), or the network failed."
    )
    print(f"{where} failed:\n{text}{advice if lost else ''}", file=sys.stderr, flush=True)
    # torchrun takes its summary from a file.
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        with suppress(OSError):
            get_error_handler().record_exception(error)
