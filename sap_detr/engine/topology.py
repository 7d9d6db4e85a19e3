"""Which processes a job consists of, and which of them this one is."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlparse

from ..config import ConfigError

# What torchrun tells each of its processes.
TORCHRUN_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
# Who starts processes, and the option that says how many on each machine.
_STARTERS = {"torchrun": ("torchrun", "--nproc-per-node"), "slurm": ("srun", "--ntasks-per-node")}
# SLURM numbers the steps of a job from 0; ids from here on stand for its batch script, its
# interactive shell and the like.
_FIRST_RESERVED_STEP = 0xFFFFFFF0
# Ports of SLURM jobs: below those that Linux gives to outgoing connections.
_FIRST_PORT, _NUM_PORTS = 16384, 16384


@dataclass(frozen=True)
class Topology:
    """The processes of a job. Ranks are counted machine by machine, from machine 0 on.

    Attributes:
        started_by: "launch" (the command line's own processes), "torchrun" or "slurm".
        num_machines: machines of the job.
        machine_rank: which of them this one is.
        processes_per_machine: the same on all machines; one per GPU.
        local_rank: which of this machine's processes this one is; None: it starts them.
        dist_url: where all processes meet, tcp://HOST:PORT; None: a free port of this machine.
        restarts: how often the job was restarted by what started it.
    """

    started_by: str = "launch"
    num_machines: int = 1
    machine_rank: int = 0
    processes_per_machine: int = 1
    local_rank: int | None = None
    dist_url: str | None = None
    restarts: int = 0

    @property
    def world_size(self) -> int:
        return self.num_machines * self.processes_per_machine

    @property
    def rank(self) -> int:
        """Of this process; of the first of its machine if it is still to start them."""
        return self.machine_rank * self.processes_per_machine + (self.local_rank or 0)

    @property
    def participant(self) -> tuple[str, int, int]:
        """Who meets the others of the job: a "rank" or a "machine", which one, and of how many."""
        if self.local_rank is None:
            return "machine", self.machine_rank, self.num_machines
        return "rank", self.rank, self.world_size


def find_topology(args: argparse.Namespace, environ: Mapping[str, str]) -> Topology:
    """Read what torchrun or SLURM's srun left in the environment, else the command line.

    RANK and WORLD_SIZE without torchrun's other variables count machines, as Kubernetes' PyTorchJob
    sets them for its pods, if the command line says how many processes to start on each.

    Args:
        args: ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url``, each None if it was
            not given. ``dist_url`` wins over the environment; the others must agree with it.
        environ: environment variables.

    Raises:
        ConfigError: if they contradict one another, or something is missing.
    """
    _check_arguments(args)
    if _counts_machines(args, environ):
        return _from_arguments(_with_machines(args, environ))
    if _is_torchrun(environ):
        found = _from_torchrun(environ)
    elif _is_slurm_step(environ):
        found = _from_slurm(args, environ)
    else:
        return _from_arguments(args)
    _check_agreement(found, args)
    if args.dist_url in (None, "auto"):
        return found
    return replace(found, dist_url=args.dist_url)


def claimed_local_rank(environ: Mapping[str, str]) -> int:
    """Return the local rank in the environment, 0 if there is none; nothing else is checked."""
    name = "LOCAL_RANK" if "LOCAL_RANK" in environ else "SLURM_LOCALID"
    value = environ.get(name, "0")
    return int(value) if value.isdecimal() else 0


def first_host(nodelist: str) -> str:
    """Return the first of a SLURM node list: ``rack1-n07`` of ``rack[1-2]-n[07-09,12],gpu5``."""
    # Up to the first comma outside of brackets.
    first = re.split(r",(?![^\[]*\])", nodelist)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def _check_arguments(args: argparse.Namespace) -> None:
    for flag, value, least in (
        ("--num-gpus", args.num_gpus, 1),
        ("--num-machines", args.num_machines, 1),
        ("--machine-rank", args.machine_rank, 0),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{flag} must be at least {least}, got {value}")
    if args.dist_url not in (None, "auto"):
        url = urlparse(args.dist_url)
        try:
            complete = url.scheme == "tcp" and bool(url.hostname) and bool(url.port)
        except ValueError:
            complete = False
        if not complete:
            raise ConfigError(f"--dist-url must be tcp://HOST:PORT or auto, got {args.dist_url!r}")


def _from_arguments(args: argparse.Namespace) -> Topology:
    num_machines = args.num_machines or 1
    url = None if args.dist_url == "auto" else args.dist_url
    if num_machines > 1 and args.machine_rank is None:
        raise ConfigError(
            f"--num-machines {num_machines} needs --machine-rank, "
            f"another one on every machine, from 0 to {num_machines - 1}"
        )
    if (args.machine_rank or 0) >= num_machines:
        raise ConfigError(
            f"--machine-rank {args.machine_rank} of --num-machines {num_machines}: "
            f"ranks are from 0 to {num_machines - 1}"
        )
    if num_machines > 1 and url is None:
        raise ConfigError(
            f"--num-machines {num_machines} needs --dist-url tcp://HOST:PORT, the same on every "
            "machine: the address of machine 0 and a free port there"
        )
    return Topology(
        num_machines=num_machines,
        machine_rank=args.machine_rank or 0,
        processes_per_machine=args.num_gpus or 1,
        dist_url=url,
    )


def _counts_machines(args: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    local = environ.get("LOCAL_RANK") or environ.get("LOCAL_WORLD_SIZE")
    given = environ.get("RANK") and environ.get("WORLD_SIZE")
    return bool(given and not local and args.num_gpus is not None)


def _with_machines(args: argparse.Namespace, environ: Mapping[str, str]) -> argparse.Namespace:
    """Return the arguments with what the environment says of machines."""
    rank, machines = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    for flag, given, actual in (
        ("--num-machines", args.num_machines, machines),
        ("--machine-rank", args.machine_rank, rank),
    ):
        if given not in (None, actual):
            raise ConfigError(
                f"{flag} {given}, but RANK={rank} of WORLD_SIZE={machines} is in the environment: "
                f"leave {flag} out, or unset RANK and WORLD_SIZE"
            )
    url = args.dist_url
    if url in (None, "auto") and machines > 1:
        address = environ.get("MASTER_ADDR")
        if not address:
            raise ConfigError("the environment variable MASTER_ADDR is not set")
        url = tcp_url(address, _number(environ, "MASTER_PORT"))
    changes = {"num_machines": machines, "machine_rank": rank, "dist_url": url}
    return argparse.Namespace(**{**vars(args), **changes})


def _is_torchrun(environ: Mapping[str, str]) -> bool:
    absent = [name for name in TORCHRUN_VARIABLES if not environ.get(name)]
    if not absent:
        return True
    if "RANK" in environ and "WORLD_SIZE" in environ:
        raise ConfigError(
            "RANK and WORLD_SIZE are in the environment, as torchrun sets them, but not "
            f"{', '.join(absent)}: start with torchrun, or unset RANK and WORLD_SIZE; if they "
            "count machines (PyTorchJob), say with --num-gpus how many processes each starts"
        )
    return False


def _from_torchrun(environ: Mapping[str, str]) -> Topology:
    rank, local_rank, world_size, per_machine = (
        _number(environ, name) for name in TORCHRUN_VARIABLES[:4]
    )
    if world_size % per_machine or rank % per_machine != local_rank:
        raise ConfigError(
            f"RANK={rank}, LOCAL_RANK={local_rank}, WORLD_SIZE={world_size} and "
            f"LOCAL_WORLD_SIZE={per_machine} don't fit together: every machine needs the same "
            "--nproc-per-node"
        )
    return Topology(
        started_by="torchrun",
        num_machines=world_size // per_machine,
        machine_rank=rank // per_machine,
        processes_per_machine=per_machine,
        local_rank=local_rank,
        dist_url=tcp_url(environ["MASTER_ADDR"], _number(environ, "MASTER_PORT")),
        restarts=_number(environ, "TORCHELASTIC_RESTART_COUNT", default=0),
    )


def _is_slurm_step(environ: Mapping[str, str]) -> bool:
    """Whether srun started this process: not so in the shell of salloc or a batch script."""
    step = environ.get("SLURM_STEP_ID", "")
    is_step = step.isdecimal() and int(step) < _FIRST_RESERVED_STEP
    return is_step and "SLURM_PROCID" in environ


def _from_slurm(args: argparse.Namespace, environ: Mapping[str, str]) -> Topology:
    # Within a step, the variables of the step win: those of the job may be about other tasks.
    restarts = _number(environ, "SLURM_RESTART_COUNT", default=0)
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if tasks == 1:
        # An interactive shell, or one task that starts the processes of its machine.
        return replace(_from_arguments(args), restarts=restarts)
    machines = _number(environ, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    each = _tasks_per_node(environ, tasks, machines)
    if len(set(each)) > 1 or each[0] * machines != tasks:
        raise ConfigError(
            f"srun started {tasks} tasks on {machines} nodes, {each} on each: every node needs the "
            "same number; use srun --ntasks-per-node"
        )
    host = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if environ.get("MASTER_ADDR") and environ.get("MASTER_PORT"):
        url = tcp_url(environ["MASTER_ADDR"], _number(environ, "MASTER_PORT"))
    elif host:
        # Steps of one job may run side by side.
        key = _number(environ, "SLURM_JOB_ID") + 1009 * _number(environ, "SLURM_STEP_ID")
        url = tcp_url(first_host(host), _FIRST_PORT + key % _NUM_PORTS)
    else:
        raise ConfigError("neither SLURM_STEP_NODELIST nor SLURM_JOB_NODELIST is set")
    # One task per node may start the processes of its node, like one command per machine.
    starts_processes = each[0] == 1 and args.num_gpus is not None and args.num_gpus > 1
    return Topology(
        started_by="slurm",
        num_machines=machines,
        machine_rank=_number(environ, "SLURM_NODEID"),
        processes_per_machine=args.num_gpus if starts_processes else each[0],
        local_rank=None if starts_processes else _number(environ, "SLURM_LOCALID"),
        dist_url=url,
        restarts=restarts,
    )


def _tasks_per_node(environ: Mapping[str, str], tasks: int, machines: int) -> list[int]:
    """Read ``2(x3),1`` as [2, 2, 2, 1]."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE")
    if not text:
        return [tasks // machines] * machines
    each: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ConfigError(f"cannot read SLURM's number of tasks per node, {text!r}")
        each += [int(match[1])] * int(match[2] or 1)
    return each


def _check_agreement(found: Topology, args: argparse.Namespace) -> None:
    """Compare what torchrun or srun started with what the command line says."""
    if found.started_by == "launch":
        return
    starter, option = _STARTERS[found.started_by]
    each, machines, rank = found.processes_per_machine, found.num_machines, found.machine_rank
    other = f", or start {starter} with {option} {args.num_gpus}"
    for flag, given, actual, what, advice in (
        ("--num-gpus", args.num_gpus, each, f"started {each} processes on this machine", other),
        ("--num-machines", args.num_machines, machines, f"started processes on {machines}", ""),
        ("--machine-rank", args.machine_rank, rank, f"gives this machine the rank {rank}", ""),
    ):
        if given not in (None, actual):
            raise ConfigError(f"{flag} {given}, but {starter} {what}: leave {flag} out{advice}")


def _number(environ: Mapping[str, str], *names: str, default: int | None = None) -> int:
    """Return the first of these variables that is set."""
    for name in names:
        value = environ.get(name)
        if not value:
            continue
        if not value.isdecimal():
            raise ConfigError(f"the environment variable {name} must be a number, got {value!r}")
        return int(value)
    if default is None:
        raise ConfigError(f"the environment variable {' or '.join(names)} is not set")
    return default


def tcp_url(host: str, port: int) -> str:
    """Return the address of a port; a host with colons is an IPv6 address."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
