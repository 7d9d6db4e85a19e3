"""Connecting the processes of a job, as Detectron2's ``launch`` does for those that it starts."""

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
# Seconds between two complaints about processes that do not come.
_TELL_MISSING = 15.0


class MeetingError(ConnectionError):
    """The processes of a job did not find one another."""


def connect(topology: Topology, device_type: str, timeout: timedelta) -> str:
    """Makes the process groups of Detectron2: of all processes, and of those of this machine.

    Args:
        topology: with ``local_rank`` and ``dist_url``.
        device_type: "cuda" for NCCL, with one GPU per process; "cpu" for Gloo.
        timeout: for meeting, and later for every collective call.

    Returns:
        A name for this start of the job, under which other things can be put in the same store.

    Raises:
        MeetingError: if not all processes came in time.
    """
    assert topology.local_rank is not None
    if device_type == "cuda":
        # SLURM may show each task its own GPU only.
        torch.cuda.set_device(topology.local_rank % torch.cuda.device_count())
    else:
        # The processes of one machine share its cores.
        share = (os.cpu_count() or 1) // topology.processes_per_machine
        torch.set_num_threads(max(min(torch.get_num_threads(), share), 1))
    _choose_interface(topology)
    if topology.num_machines > 1 and topology.local_rank == 0:
        waiting = f"waiting for {topology.world_size} processes at {topology.dist_url}"
        print(waiting, file=sys.stderr, flush=True)
    try:
        store = open_store(topology, timeout, is_host=topology.rank == 0)
        name = _meet(store, topology.rank, topology.world_size, timeout)
        distributed.init_process_group(
            "nccl" if device_type == "cuda" else "gloo",
            store=distributed.PrefixStore(name, store),
            world_size=topology.world_size,
            rank=topology.rank,
            timeout=timeout,
        )
        comm.synchronize()
    except Exception as error:
        raise MeetingError(
            f"rank {topology.rank} of {topology.world_size} on {socket.gethostname()} did not meet "
            f"the others at {topology.dist_url}. All machines must reach that address, and be "
            f"started with the same number of machines and of processes. {error}"
        ) from error
    _make_local_group(topology.processes_per_machine)
    return name


def open_store(
    topology: Topology, timeout: timedelta, is_host: bool = False
) -> distributed.TCPStore:
    """A connection to the store at which the processes of a job meet.

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
        host,
        port,
        is_master=is_host and not of_torchrun,
        timeout=timeout,
        wait_for_workers=False,
    )


def current_start(store: distributed.Store) -> str:
    """The name of the last start of the job, see :func:`connect`."""
    return store.get(_LAST_START).decode()


def _meet(store: distributed.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """Agrees on a name for this start of the job.

    The store of torchrun outlives restarts, and what processes that are gone have left there must
    not be read. So rank 0 makes up a name, all others answer with a number of their own, and where
    rank 0 has noted that number they know that they were meant.

    Raises:
        TimeoutError: if not all processes came.
    """
    start, pause = time.monotonic(), 0.02
    own = uuid.uuid4().hex
    missing, told = list(range(1, world_size)), start
    if rank == 0:
        store.set(_LAST_START, own)
    while time.monotonic() < start + timeout.total_seconds():
        if rank == 0:
            missing = [other for other in missing if not store.check([f"{own}/{other}"])]
            if not missing:
                for other in range(1, world_size):
                    store.set(f"{own}/{store.get(f'{own}/{other}').decode()}", "")
                return own
            if time.monotonic() > told + _TELL_MISSING:
                told = time.monotonic()
                ranks = ", ".join(map(str, missing))
                print(f"rank 0 still waits for ranks {ranks}", file=sys.stderr, flush=True)
        elif store.check([_LAST_START]):
            name = current_start(store)
            store.set(f"{name}/{rank}", own)
            if store.check([f"{name}/{own}"]):
                return name
        # Another machine may be minutes late.
        time.sleep(pause)
        pause = min(1.5 * pause, 1.0)
    raise TimeoutError(f"Waited for {timeout}{f' for ranks {missing}' if rank == 0 else ''}.")


def disconnect() -> None:
    """Closes all process groups, once every process has come here."""
    comm.synchronize()
    distributed.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()


def interface_towards(host: str) -> str | None:
    """The network interface by which packets leave for a host; None if that is not known."""
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
    """Lets Gloo use the network interface that leads to machine 0.

    By itself it takes the one that this machine's name stands for, which often is 127.0.1.1.
    """
    if topology.num_machines == 1 or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    name = interface_towards(str(urlparse(topology.dist_url).hostname))
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _make_local_group(size: int) -> None:
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(size)
        return
    # Detectron2 0.5 makes it nowhere but in its launch().
    for first in range(0, comm.get_world_size(), size):
        ranks = list(range(first, first + size))
        group = distributed.new_group(ranks)
        if comm.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
