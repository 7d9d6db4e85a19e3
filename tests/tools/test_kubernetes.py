"""The job for Kubernetes: the operator knows its fields, and its command is one of ours.

The schema is written from the public documentation, and has only what the job may use. The models
of kubeflow-training 1.9.4, which need 40 MB of packages, take the job as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sap_detr import cli, model_zoo
from sap_detr.engine.topology import find_topology

MANIFEST = Path(__file__).parents[2] / "tools" / "kubernetes" / "train.yaml"

# Fields of a PyTorchJob (kubeflow.org/v1) and of a pod that the job may use; "!" are required, "*"
# is any name.
POD = {
    "spec!": {
        "terminationGracePeriodSeconds": int,
        "containers!": [
            {
                "name!": {"pytorch"},  # the operator looks for a container of this name
                "image!": str,
                "command": [str],
                "args": [str],
                "env": [{"name!": str, "value": str}],
                "resources": {"limits": {"*": str}},
                "volumeMounts": [{"name!": str, "mountPath!": str}],
            }
        ],
        "volumes": [
            {
                "name!": str,
                "persistentVolumeClaim": {"claimName!": str},
                "emptyDir": {"medium": {"", "Memory"}, "sizeLimit": str},
            }
        ],
    }
}
REPLICAS = {
    "replicas": int,
    "restartPolicy": {"Always", "OnFailure", "Never", "ExitCode"},
    "template!": POD,
}
SCHEMA = {
    "apiVersion!": {"kubeflow.org/v1"},
    "kind!": {"PyTorchJob"},
    "metadata!": {"name!": str},
    "spec!": {
        "runPolicy!": {"cleanPodPolicy": {"All", "Running", "None"}},
        "pytorchReplicaSpecs!": {"Master": REPLICAS, "Worker": REPLICAS},
    },
}


def faults(value: Any, schema: Any, where: str = "") -> list[str]:
    """What of a value is not as a schema says."""
    if isinstance(schema, set):
        return [] if value in schema else [f"{where}: {value!r}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [
            fault for i, x in enumerate(value) for fault in faults(x, schema[0], f"{where}[{i}]")
        ]
    if not isinstance(schema, dict):
        return [] if isinstance(value, schema) else [f"{where}: {value!r}"]
    if not isinstance(value, dict):
        return [f"{where}: no object"]
    known = {key.removesuffix("!"): part for key, part in schema.items()}
    found = [
        f"{where}: lacks {key[:-1]}" for key in schema if key[-1] == "!" and key[:-1] not in value
    ]
    for key, part in value.items():
        if key in known or "*" in known:
            found += faults(part, known.get(key, known.get("*")), f"{where}.{key}")
        else:
            found.append(f"{where}: knows no {key}")
    return found


@pytest.fixture
def job():
    return yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))


def test_the_operator_knows_every_field(job):
    assert faults(job, SCHEMA) == []
    job["spec"]["nProcs"] = 8
    del job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["image"]
    # Of both pods, which are written once.
    assert len(faults(job, SCHEMA)) == 3


def test_every_pod_trains_with_all_of_its_gpus(job):
    specs = job["spec"]["pytorchReplicaSpecs"]
    pods = [spec for spec in specs.values() for _ in range(spec["replicas"])]
    assert specs["Master"]["replicas"] == 1
    for rank, spec in enumerate(pods):
        pod = spec["template"]["spec"]
        [container] = pod["containers"]
        program, *command = [*container["command"], *container["args"]]
        assert program == "sap-detr"
        args = cli.argument_parser().parse_args(command)
        assert args.resume
        model_zoo.get_config(args.config_file)
        environ = {"RANK": str(rank), "WORLD_SIZE": str(len(pods))}
        environ |= {"MASTER_ADDR": "sap-detr-master-0", "MASTER_PORT": "23456"}
        topology = find_topology(args, environ)
        gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
        assert topology.processes_per_machine == gpus
        assert (topology.rank, topology.world_size) == (8 * rank, 16)
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
