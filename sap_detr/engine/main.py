"""The command line of training and evaluation."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from ..arguments import ArgumentParser
from ..checkpoint import SCORED, by_one_process, load_weights, lock_run_folder
from ..config import ConfigError, as_list, load_config, num_queries, pixel_range, prepare_data
from ..data import check_datasets, describe_source
from ..parsers import train as options
from .launch import USER_ERROR_STATUS, USER_ERRORS, ProcessOptions, launch, print_error
from .preemption import STOP_SIGNALS, StopSignals
from .settings import check_best_metric, check_early_stopping, check_settings
from .setup import accelerate, build_model, choose_device, setup_run
from .topology import Topology, claimed_local_rank, find_topology
from .trainer import DetectionTrainer, accumulation_steps

logger = logging.getLogger(__name__)


_PARTS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


@dataclass(frozen=True)
class RunPlan:
    """What all processes of a job do. The command line is read into it once.

    Attributes:
        cfg: the config; data and classes are not known yet.
        topology: the processes.
        eval_only: whether to evaluate ``train.init_checkpoint`` instead of training.
        resume: whether to go on from the newest checkpoint.
        command: the command line, for the log.
    """

    cfg: DictConfig
    topology: Topology
    eval_only: bool = False
    resume: bool = False
    command: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line in one process per GPU.

    The processes are started here, or by torchrun or srun, see :mod:`sap_detr.engine.topology`.

    Args:
        argv: command line without the program's name; see ``--help``.

    Returns:
        The exit status, see :func:`~sap_detr.engine.launch.launch`.
    """
    return run_command(argument_parser().parse_args(argv))


def run_command(args: argparse.Namespace) -> int:
    """Do what a command line asks for; see :func:`main`."""
    try:
        plan = make_plan(args, find_topology(args, os.environ))
    except USER_ERRORS as error:
        return _refuse(error)
    options = ProcessOptions(
        device_type=torch.device(plan.cfg.train.device).type,
        timeout=timedelta(minutes=plan.cfg.train.process_group_timeout),
    )
    return launch(run, plan.topology, (plan,), options)


def argument_parser() -> argparse.ArgumentParser:
    """Return the options of training; those about processes are None where they are not given."""
    parser = ArgumentParser("train", options.__doc__)
    options.add_options(parser)
    return parser


@contextmanager
def _missing_keys_named() -> Iterator[None]:
    """Make mistakes of the user of keys that a config lacks."""
    try:
        yield
    except (ConfigAttributeError, ConfigKeyError) as error:
        raise ConfigError(f"the config has no {error.full_key}, which is needed") from error


@_missing_keys_named()
def make_plan(args: argparse.Namespace, topology: Topology) -> RunPlan:
    """Load the config that a command line names, and find out whether it makes sense here.

    Raises:
        ConfigError: if no config is named, a part of it is missing, a setting makes no sense, or
            the machine has too few GPUs.
        FileNotFoundError: if there is no such config, or no such weights.
    """
    if not args.config_file:
        raise ConfigError("no config: name one with --config-file FILE")
    cfg = load_config(args.config_file, args.opts)
    missing = [part for part in _PARTS if part not in cfg]
    if missing:
        hint = "; earlier versions wrote schedule" if "schedule" in cfg else ""
        raise ConfigError(f"{args.config_file} has no {', '.join(missing)}{hint}")
    cfg.train.device = choose_device(cfg.train.device)
    check_devices(topology, cfg.train.device)
    checkpoint = cfg.train.init_checkpoint
    if args.eval_only and not checkpoint:
        raise ConfigError("--eval-only needs weights: add train.init_checkpoint=FILE")
    if checkpoint and "://" not in checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(f"train.init_checkpoint: there is no file {checkpoint}")
    check_settings(cfg)
    if not args.eval_only:
        batch = cfg.dataloader.train.total_batch_size
        accumulation_steps(batch, topology.world_size, cfg.train.max_images_per_gpu)
    return RunPlan(
        cfg,
        topology,
        eval_only=args.eval_only,
        resume=args.resume or topology.restarts > 0,
        command=str(args),
    )


def _refuse(error: Exception) -> int:
    if claimed_local_rank(os.environ) == 0:
        print_error(error)
    else:
        # Every process of this machine found the same; torchrun ends all when the first has ended,
        # which should be the one that tells.
        signal.sigtimedwait(STOP_SIGNALS, 10)
    return USER_ERROR_STATUS


def check_devices(topology: Topology, device: str) -> None:
    """Find out whether every process of this machine has a GPU, if they are to use GPUs.

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


@_missing_keys_named()
def check_plan(plan: RunPlan) -> list[str]:
    """Find what would stop a run later in its data. To be done once per machine.

    Args:
        plan: the classes and the data sets are filled in, in the config.

    Returns:
        Warnings about the data, for the log.

    Raises:
        ConfigError: for settings that contradict one another.
        FileNotFoundError: if the data is not there.
        DatasetError: if the data is broken.
    """
    cfg = plan.cfg
    class_names = prepare_data(cfg)
    trained: list[str] = []
    if not plan.eval_only:
        check_best_metric(cfg)
        check_early_stopping(cfg)
        trained = as_list(cfg.dataloader.train.dataset.names)
    evaluated = as_list(cfg.dataloader.test.dataset.names)
    if plan.eval_only and not evaluated:
        raise ConfigError(
            "--eval-only: there is no split to evaluate (dataloader.test.dataset.names is empty): "
            "name one with dataset.val=NAME, such as dataset.val=test"
        )
    if not cfg.train.check_data:
        return []
    inspection = check_datasets(
        trained,
        evaluated,
        class_names=class_names,
        num_queries=num_queries(cfg),
        pixel_range=pixel_range(cfg),
        require_validation=True,
    )
    images = sum(len(split.dicts) for split in inspection.splits if split.source.training)
    batch = cfg.dataloader.train.total_batch_size
    if trained and images < batch:
        raise ConfigError(
            f"the training data has {images} images, fewer than "
            f"dataloader.train.total_batch_size={batch}; lower that"
        )
    return inspection.warnings()


def run(stop: StopSignals, plan: RunPlan) -> dict[str, Any]:
    """Train or evaluate, as one process of a job.

    Args:
        stop: requests to stop.
        plan: the same in all processes.

    Returns:
        The last evaluation results, on the main process; {} on the others.
    """
    cfg = plan.cfg
    warnings = by_one_process(partial(check_plan, plan), per_machine=True)
    # Those that have not checked. What is registered already stays.
    prepare_data(cfg)
    # Machines of one job may have been restarted differently often.
    resume = any(comm.all_gather(plan.resume))
    if not plan.eval_only:
        # Before config and logs of another run are written over.
        lock_run_folder(cfg.train.output_dir)
    notes = [f"command line: {plan.command}", f"processes: {plan.topology}"]
    evaluated = as_list(cfg.dataloader.test.dataset.names)
    trained = [] if plan.eval_only else as_list(cfg.dataloader.train.dataset.names)
    notes += map(describe_source, [*trained, *evaluated])
    if plan.topology.restarts > 0:
        notes.append(f"restart {plan.topology.restarts}: going on from the newest checkpoint")
    setup_run(cfg, [*notes, *warnings])
    if plan.eval_only:
        return evaluate(cfg)
    trainer = DetectionTrainer(cfg, stop)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer.last_results


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Evaluate the weights that ``train.init_checkpoint`` names.

    Where there is a moving average, ``train.weights`` says whether it is that.
    """
    model = build_model(cfg)
    path = PathManager.get_local_path(cfg.train.init_checkpoint)
    report = load_weights(
        model, path, class_names=cfg.train.class_names, weights=cfg.train.get("weights", SCORED)
    )
    report.require_complete()
    accelerate(model, cfg.train)
    return DetectionTrainer.test(cfg, model)
