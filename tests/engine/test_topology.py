"""Who starts the processes, read from command lines and environments."""

import jobs
import pytest

from sap_detr.config import ConfigError
from sap_detr.engine import Topology, find_topology
from sap_detr.engine.main import argument_parser
from sap_detr.engine.topology import first_host


def find(flags="", environ=None):
    return find_topology(argument_parser().parse_args(flags.split()), environ or {})


def slurm_task(proc=0, local=0, node=0, tasks=8, nodes=2, **more):
    """What srun sets in a task; two nodes with four tasks each by default."""
    return {
        "SLURM_JOB_ID": "4242",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(proc),
        "SLURM_LOCALID": str(local),
        "SLURM_NODEID": str(node),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks // nodes}(x{nodes})",
        "SLURM_STEP_NODELIST": "rack1-n[07-08]",
        # Of the job, which may be larger than the step.
        "SLURM_NTASKS": "99",
        "SLURM_NNODES": "9",
        "SLURM_TASKS_PER_NODE": "11(x9)",
        "SLURM_JOB_NODELIST": "login,rack1-n[01-08]",
        **more,
    }


SLURM_URL = f"tcp://rack1-n07:{16384 + 4242}"


def test_command_line():
    assert find() == Topology()
    assert find("--num-gpus 4") == Topology(processes_per_machine=4)
    found = find("--num-gpus 4 --num-machines 3 --machine-rank 2 --dist-url tcp://a:29500")
    assert found == Topology("launch", 3, 2, 4, None, "tcp://a:29500")
    assert (found.world_size, found.rank) == (12, 8)
    assert find("--num-gpus 2 --dist-url auto").dist_url is None


def test_torchrun():
    environ = jobs.torchrun_environment(5, 8, 29500, LOCAL_RANK="1", LOCAL_WORLD_SIZE="4")
    assert find("", environ) == Topology("torchrun", 2, 1, 4, 1, "tcp://127.0.0.1:29500")
    assert find("", environ).rank == 5
    assert find("", {**environ, "TORCHELASTIC_RESTART_COUNT": "3"}).restarts == 3
    assert find("--num-gpus 4 --num-machines 2 --machine-rank 1", environ) == find("", environ)
    assert find("--dist-url tcp://b:1234", environ).dist_url == "tcp://b:1234"
    # It may itself run in a task of SLURM.
    assert find("", {**slurm_task(tasks=2), **environ}).started_by == "torchrun"


def test_slurm_task_per_process():
    found = find("", slurm_task(proc=6, local=2, node=1, SLURM_RESTART_COUNT="2"))
    assert found == Topology("slurm", 2, 1, 4, 2, SLURM_URL, restarts=2)
    # Tasks may be dealt to the nodes in turn; ranks of a machine are neighbours all the same.
    assert find("", slurm_task(proc=5, local=2, node=1)).rank == 6
    other_step = find("", slurm_task(SLURM_STEP_ID="1")).dist_url
    assert other_step != SLURM_URL
    assert other_step.startswith("tcp://rack1-n07:")
    own = slurm_task(MASTER_ADDR="fast-n07", MASTER_PORT="29501")
    assert find("", own).dist_url == "tcp://fast-n07:29501"
    assert find("", slurm_task(tasks=2)).processes_per_machine == 1


def test_slurm_without_variables_of_the_step():
    environ = slurm_task(SLURM_NTASKS="4", SLURM_NNODES="2", SLURM_TASKS_PER_NODE="2(x2)")
    environ = {k: v for k, v in environ.items() if not k.startswith("SLURM_STEP_")}
    environ.update(SLURM_STEP_ID="0", SLURM_JOB_NODELIST="n[3,5]")
    assert find("", environ) == Topology("slurm", 2, 0, 2, 0, f"tcp://n3:{16384 + 4242}")


def test_slurm_task_per_node_starts_the_processes_of_its_node():
    found = find("--num-gpus 4", slurm_task(proc=1, node=1, tasks=2))
    assert found == Topology("slurm", 2, 1, 4, None, SLURM_URL)
    assert (found.world_size, found.rank) == (8, 4)


def test_a_shell_in_a_slurm_job_is_no_task():
    task = slurm_task()
    salloc = {k: v for k, v in task.items() if k not in ("SLURM_STEP_ID", "SLURM_PROCID")}
    batch = {k: v for k, v in task.items() if k != "SLURM_STEP_ID"}
    interactive_step = {**task, "SLURM_STEP_ID": "4294967290"}
    for environ in (salloc, batch, interactive_step):
        assert find("--num-gpus 2", environ) == Topology(processes_per_machine=2)
    # `srun --pty bash` is a step of one task, on one of perhaps several nodes.
    shell = slurm_task(tasks=1, nodes=1)
    assert find("--num-gpus 2", shell) == Topology(processes_per_machine=2)
    flags = "--num-machines 2 --machine-rank 1 --dist-url tcp://a:29500"
    assert find(flags, shell) == find(flags)


MASTER = {"MASTER_ADDR": "sap-detr-master-0", "MASTER_PORT": "23456"}


def test_pods_that_start_their_processes_themselves():
    expected = Topology(
        num_machines=2,
        machine_rank=1,
        processes_per_machine=8,
        dist_url="tcp://sap-detr-master-0:23456",
    )
    pod = {"RANK": "1", "WORLD_SIZE": "2", **MASTER}
    assert find("--num-gpus 8", pod) == expected
    assert find("--num-gpus 8 --num-machines 2 --machine-rank 1", pod) == expected
    assert find("--num-gpus 8 --dist-url tcp://a:1", pod).dist_url == "tcp://a:1"
    assert find("--num-gpus 2", {**pod, "RANK": "0", "WORLD_SIZE": "1"}).world_size == 2


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        ("--num-gpus 0", {}, "--num-gpus must be at least 1"),
        ("--num-machines 2 --dist-url tcp://a:1", {}, "needs --machine-rank"),
        ("--num-machines 2 --machine-rank 2", {}, "from 0 to 1"),
        ("--num-machines 2 --machine-rank 1", {}, "needs --dist-url"),
        ("--dist-url http://a:1", {}, "tcp://HOST:PORT"),
        ("--dist-url tcp://a", {}, "tcp://HOST:PORT"),
        ("--num-gpus 2", jobs.torchrun_environment(0, 4, 1), "--nproc-per-node 2"),
        ("--num-machines 2", jobs.torchrun_environment(0, 4, 1), "processes on 1"),
        ("--machine-rank 1", jobs.torchrun_environment(0, 4, 1), "the rank 0"),
        ("", {"RANK": "0", "WORLD_SIZE": "2"}, "not LOCAL_RANK.* say with --num-gpus"),
        ("--num-gpus 8", {"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        ("--num-gpus 8", {"RANK": "2", "WORLD_SIZE": "2", **MASTER}, "ranks are from 0 to 1"),
        ("--num-gpus 8", {"RANK": "0", "WORLD_SIZE": "two", **MASTER}, "must be a number"),
        ("--num-gpus 8 --num-machines 3", {"RANK": "0", "WORLD_SIZE": "2"}, "leave --num-machines"),
        ("--num-gpus 8 --machine-rank 1", {"RANK": "0", "WORLD_SIZE": "2"}, "leave --machine-rank"),
        ("", jobs.torchrun_environment(0, 3, 1, LOCAL_WORLD_SIZE="2"), "same --nproc-per-node"),
        ("", jobs.torchrun_environment(0, 2, 1, RANK="first"), "RANK must be a number"),
        ("--num-gpus 2", slurm_task(), "--ntasks-per-node 2"),
        ("--num-machines 1 --num-gpus 4", slurm_task(tasks=2), "processes on 2"),
        ("", slurm_task(tasks=5, SLURM_STEP_TASKS_PER_NODE="3,2"), "--ntasks-per-node"),
        ("", slurm_task(SLURM_STEP_TASKS_PER_NODE="many"), "tasks per node"),
        ("", slurm_task(SLURM_NODEID=""), "SLURM_NODEID is not set"),
    ],
)
def test_contradictions(flags, environ, message):
    with pytest.raises(ConfigError, match=message):
        find(flags, environ)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu5", "gpu5"),
        ("gpu5,gpu7", "gpu5"),
        ("n[07-09,12],gpu5", "n07"),
        ("n[3,5-8]", "n3"),
        ("rack[1-2]-n[007-010]-ib", "rack1-n007-ib"),
        ("a-b.example.org,c[1-2]", "a-b.example.org"),
    ],
)
def test_first_host(nodelist, host):
    assert first_host(nodelist) == host
