"""The command line of training and evaluation."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

from ..checkpoint import (
    CheckpointError,
    load_checkpoint_file,
    load_weights,
    lock_run_folder,
)
from ..config import ConfigError, load_config
from ..data import DatasetError, check_datasets
from .launch import (
    USER_ERROR_STATUS,
    ProcessOptions,
    launch,
    once_per_machine,
    tell,
    tell_preempted,
)
from .preemption import PREEMPTED_STATUS, Preempted, StopSignals
from .setup import accelerate, as_dict, as_list, build_model, choose_device, prepare_data, setup_run
from .topology import Topology, find_topology, local_rank_hint
from .trainer import DetectionTrainer, accumulation_steps, yacs_view

logger = logging.getLogger(__name__)

# Mistakes of the user, told in one line instead of a traceback.
USER_ERRORS = (ConfigError, DatasetError, CheckpointError, FileNotFoundError)


def main(argv: Sequence[str] | None = None) -> int:
    """Checks everything that can be checked, then runs in one process per GPU.

    The processes are started here, or by torchrun or srun, see :mod:`sap_detr.engine.topology`.

    Args:
        argv: command line without the program's name; see ``--help``.

    Returns:
        The exit status, see :func:`~sap_detr.engine.launch.launch`.
    """
    args = argument_parser().parse_args(argv)
    try:
        with StopSignals():
            topology = find_topology(args, os.environ)
            cfg = load_args(args)
            device = choose_device(cfg.train.device)
            check_devices(topology, device)
            if topology.restarts > 0:
                args.resume = True
            if _is_checked_here(topology):
                check_before_launch(cfg, args, topology)
    except USER_ERRORS as error:
        return _refuse(error)
    except Preempted:
        tell_preempted()
        return PREEMPTED_STATUS
    options = ProcessOptions(
        device_type=torch.device(device).type,
        timeout=timedelta(minutes=cfg.train.process_group_timeout),
        user_errors=USER_ERRORS,
    )
    return launch(run, topology, (args, topology), options)


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's options; those about processes are None where they are not given."""
    parser = default_argument_parser(__doc__)
    parser.set_defaults(num_gpus=None, num_machines=None, machine_rank=None, dist_url=None)
    return parser


def _is_checked_here(topology: Topology) -> bool:
    """Whether this process can answer for all others: it starts them, or is the only one."""
    return topology.world_size == 1 or (topology.num_machines == 1 and topology.local_rank is None)


def _refuse(error: Exception) -> int:
    if local_rank_hint(os.environ) == 0:
        tell(error)
    else:
        # Every process of this machine found the same; torchrun ends all when the first has ended,
        # which should be the one that tells.
        time.sleep(10)
    return USER_ERROR_STATUS


def load_args(args: argparse.Namespace) -> DictConfig:
    """The config that a command line names, with its overrides.

    Raises:
        ConfigError: if no config is named.
    """
    if not args.config_file:
        raise ConfigError("no config: name one with --config-file FILE")
    return load_config(args.config_file, args.opts)


def check_devices(topology: Topology, device: str) -> None:
    """Finds out whether every process of this machine has a GPU, if they are to use GPUs.

    Raises:
        ConfigError: if there are too few.
    """
    if not device.startswith("cuda"):
        return
    wanted, found = topology.processes_per_machine, torch.cuda.device_count()
    # SLURM may show each task its own GPU only.
    if wanted > found and not (topology.started_by == "slurm" and found == 1):
        raise ConfigError(
            f"{wanted} processes on this machine (--num-gpus), but it has {found} GPUs"
        )


def check_before_launch(cfg: DictConfig, args: argparse.Namespace, topology: Topology) -> None:
    """Finds what would stop the run later: batch size, weights, data.

    Raises:
        ConfigError: for settings that contradict one another or the machine.
        FileNotFoundError: if the weights or the data are not there.
        DatasetError: if the data is broken.
    """
    checkpoint = cfg.train.init_checkpoint
    if args.eval_only and not checkpoint:
        raise ConfigError("--eval-only needs weights: add train.init_checkpoint=FILE")
    if checkpoint and "://" not in checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(f"train.init_checkpoint: there is no file {checkpoint}")
    prepare_data(cfg)
    trained: list[str] = []
    if not args.eval_only:
        accumulation_steps(
            cfg.dataloader.train.total_batch_size,
            topology.world_size,
            cfg.train.max_images_per_gpu,
        )
        trained = as_list(cfg.dataloader.train.dataset.names)
    if not cfg.train.check_data:
        return
    # Test images are decoded as well: a bad one would stop every evaluation where it comes up.
    tested = as_list(cfg.dataloader.test.dataset.names)
    check_datasets(tested, require_annotations=False, decode=True)
    images = sum(summary.num_images for summary in check_datasets(trained))
    batch = cfg.dataloader.train.total_batch_size
    if trained and images < batch:
        raise ConfigError(
            f"the training data has {images} images, fewer than "
            f"dataloader.train.total_batch_size={batch}; lower that"
        )


def run(stop: StopSignals, args: argparse.Namespace, topology: Topology) -> dict[str, Any]:
    """One process of a job.

    Args:
        stop: requests to stop.
        args: the command line.
        topology: all processes.

    Returns:
        The last evaluation results, on the main process; {} on the others.
    """
    cfg = load_args(args)
    if not _is_checked_here(topology):
        once_per_machine(partial(check_before_launch, cfg.copy(), args, topology), USER_ERRORS)
        # Machines of one job may have been restarted differently often.
        args.resume = any(comm.all_gather(args.resume))
    if not args.eval_only:
        # Before config and logs of another run are written over.
        lock_run_folder(cfg.train.output_dir)
    prepare_data(cfg)
    setup_run(cfg, args, topology)
    if args.eval_only:
        return evaluate(cfg)
    trainer = DetectionTrainer(cfg, stop)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    return as_dict(getattr(trainer, "_last_eval_results", {}))


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Evaluates the weights that ``train.init_checkpoint`` names.

    With ``train.ema.enabled`` that is the moving average, if the checkpoint has one.
    """
    model = build_model(cfg)
    path = PathManager.get_local_path(cfg.train.init_checkpoint)
    checkpoint = load_checkpoint_file(path)
    if cfg.train.ema.enabled and "ema" in checkpoint:
        checkpoint["model"] = {k: v for k, v in checkpoint["ema"].items() if k != "num_updates"}
    report = load_weights(model, checkpoint, class_names=cfg.train.class_names, source=path)
    report.require_complete()
    accelerate(model, cfg.train)
    return as_dict(DetectionTrainer.test(yacs_view(cfg), model))
