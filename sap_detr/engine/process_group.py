"""Where the processes of a job meet, and the groups that they form as Detectron2's ``launch`` does.

Machines that start their own processes meet here before they do so; processes that torchrun or srun
started meet here themselves.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from contextlib import suppress
from datetime import timedelta
from urllib.parse import urlparse

import torch
from detectron2.utils import comm
from torch import distributed

from .topology import Topology

# ioctl of Linux: the IPv4 address of an interface, at bytes 20 to 23 of a struct ifreq.
_SIOCGIFADDR = 0x8915
_LAST_START = "last_start"
# Seconds between two complaints about those that do not come.
_TELL_MISSING = 15.0


class MeetingError(ConnectionError):
    """The machines or processes of a job did not find one another."""


def open_store(
    topology: Topology, timeout: timedelta, is_host: bool = False
) -> distributed.TCPStore:
    """Connect to the store at which a job meets.

    Args:
        topology: with ``dist_url``.
        timeout: for connecting and for reading.
        is_host: whether the store is to be in this process, unless it is in torchrun.
    """
    url = urlparse(str(topology.dist_url))
    host, port = str(url.hostname), int(url.port or 0)
    of_torchrun = (
        topology.started_by == "torchrun"
        and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and (host, str(port)) == (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
    )
    return distributed.TCPStore(
        host, port, is_master=is_host and not of_torchrun, timeout=timeout, wait_for_workers=False
    )


def meet(topology: Topology, timeout: timedelta) -> tuple[distributed.TCPStore, str]:
    """Wait for all machines of a job, or for all its processes if this is one of them.

    Args:
        topology: with ``dist_url``.
        timeout: for everyone to come.

    Returns:
        The store at which they met, and a name for this start of the job, under which things can be
        put there. The store ends with the process of rank 0, or of machine 0.

    Raises:
        MeetingError: if not all came in time.
    """
    _choose_interface(topology)
    kind, index, count = topology.participant
    if topology.num_machines > 1 and topology.local_rank in (None, 0):
        waiting = f"waiting for {topology.world_size} processes at {topology.dist_url}"
        print(waiting, file=sys.stderr, flush=True)
    try:
        store = open_store(topology, timeout, is_host=index == 0)
        return store, _agree_on_start(store, kind, index, count, timeout)
    except Exception as error:
        raise MeetingError(
            f"{kind} {index} of {count} on {socket.gethostname()} did not meet the others at "
            f"{topology.dist_url}. All machines must reach that address, and be started with the "
            f"same number of machines and of processes. {error}"
        ) from error


def connect(topology: Topology, device_type: str, timeout: timedelta) -> str:
    """Make Detectron2's process groups in a process that its ``launch`` did not start.

    Args:
        topology: with ``local_rank`` and ``dist_url``.
        device_type: "cuda" for NCCL, with one GPU per process; "cpu" for Gloo.
        timeout: for meeting, and later for every collective call.

    Returns:
        The name of this start of the job, see :func:`meet`.

    Raises:
        MeetingError: if not all processes came in time.
    """
    if device_type == "cuda":
        # SLURM may show each task its own GPU only.
        torch.cuda.set_device((topology.local_rank or 0) % torch.cuda.device_count())
    store, start = meet(topology, timeout)
    distributed.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        store=distributed.PrefixStore(start, store),
        world_size=topology.world_size,
        rank=topology.rank,
        timeout=timeout,
    )
    comm.synchronize()
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(topology.processes_per_machine)
        return start
    # Detectron2 0.5 has no public way outside of its launch().
    size = topology.processes_per_machine
    for first in range(0, topology.world_size, size):
        group = distributed.new_group(list(range(first, first + size)))
        if first == topology.machine_rank * size:
            comm._LOCAL_PROCESS_GROUP = group
    return start


def share_cores(topology: Topology) -> None:
    """Give this process its share of the machine's cores."""
    share = (os.cpu_count() or 1) // topology.processes_per_machine
    torch.set_num_threads(max(min(torch.get_num_threads(), share), 1))


def interface_towards(host: str) -> str | None:
    """Return the network interface by which packets leave for a host; None if not known."""
    with suppress(ImportError, OSError):
        import fcntl

        info = socket.getaddrinfo(host, 9, socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Sends nothing.
            probe.connect(info[0][4])
            own = socket.inet_aton(probe.getsockname()[0])
            for _, name in socket.if_nameindex():
                request = name.encode().ljust(40, b"\0")
                with suppress(OSError):
                    if fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24] == own:
                        return name
    return None


def _choose_interface(topology: Topology) -> None:
    """Let Gloo use the network interface that leads to machine 0, also in child processes.

    By itself it takes the one that this machine's name stands for, which often is 127.0.1.1.
    """
    if topology.num_machines == 1 or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    name = interface_towards(str(urlparse(topology.dist_url).hostname))
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _agree_on_start(
    store: distributed.Store, kind: str, index: int, count: int, timeout: timedelta
) -> str:
    """Agree on a name for this start of the job.

    The store of torchrun outlives restarts, and what processes that are gone have left there must
    not be read. So number 0 makes up a name, all others answer with one of their own, and where
    number 0 has noted theirs they know that they were meant.

    Raises:
        TimeoutError: if not all came.
    """
    begun, pause = time.monotonic(), 0.02
    own = uuid.uuid4().hex
    missing, told = list(range(1, count)), begun
    if index == 0:
        store.set(_LAST_START, own)
    while time.monotonic() < begun + timeout.total_seconds():
        if index == 0:
            missing = [other for other in missing if not store.check([f"{own}/{other}"])]
            if not missing:
                for other in range(1, count):
                    store.set(f"{own}/{store.get(f'{own}/{other}').decode()}", "")
                return own
            if time.monotonic() > told + _TELL_MISSING:
                told = time.monotonic()
                names = ", ".join(map(str, missing))
                print(f"{kind} 0 still waits for {kind}s {names}", file=sys.stderr, flush=True)
        elif store.check([_LAST_START]):
            name = str(store.get(_LAST_START).decode())
            store.set(f"{name}/{index}", own)
            if store.check([f"{name}/{own}"]):
                return name
        # Another machine may be minutes late.
        time.sleep(pause)
        pause = min(1.5 * pause, 1.0)
    raise TimeoutError(f"Waited for {timeout}{f' for {kind}s {missing}' if index == 0 else ''}.")
