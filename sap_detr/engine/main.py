"""The command line of training and evaluation."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

from ..checkpoint import CheckpointError, load_checkpoint_file, load_weights
from ..config import ConfigError, load_config
from ..data import DatasetError, check_datasets
from .setup import as_dict, as_list, build_model, choose_device, prepare_data, setup_run
from .trainer import DetectionTrainer, accumulation_steps, yacs_view

logger = logging.getLogger(__name__)

# Mistakes of the user, told in one line instead of a traceback.
USER_ERRORS = (ConfigError, DatasetError, CheckpointError, FileNotFoundError)


def main(argv: Sequence[str] | None = None) -> int:
    """Checks everything that can be checked, then launches one process per GPU.

    Args:
        argv: command line without the program's name; see ``--help``.

    Returns:
        0, or 2 after a mistake of the user, which is told in one line.
    """
    args = default_argument_parser(__doc__).parse_args(argv)
    try:
        cfg = load_args(args)
        check_before_launch(cfg, args)
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def load_args(args: argparse.Namespace) -> DictConfig:
    """The config that a command line names, with its overrides.

    Raises:
        ConfigError: if no config is named.
    """
    if not args.config_file:
        raise ConfigError("no config: name one with --config-file FILE")
    return load_config(args.config_file, args.opts)


def check_before_launch(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Finds what would stop the run later: devices, batch size, weights, data.

    Raises:
        ConfigError: for arguments that contradict one another or the machine.
        FileNotFoundError: if the weights or the data are not there.
        DatasetError: if the data is broken.
    """
    device = choose_device(cfg.train.device)
    if args.num_gpus < 1:
        raise ConfigError(f"--num-gpus must be at least 1, got {args.num_gpus}")
    if device.startswith("cuda") and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus {args.num_gpus}, but this machine has {torch.cuda.device_count()} GPUs"
        )
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
            args.num_gpus * args.num_machines,
            cfg.train.max_images_per_gpu,
        )
        trained = as_list(cfg.dataloader.train.dataset.names)
    if not cfg.train.check_data:
        return
    check_datasets(as_list(cfg.dataloader.test.dataset.names), require_annotations=False)
    images = sum(summary.num_images for summary in check_datasets(trained))
    batch = cfg.dataloader.train.total_batch_size
    if trained and images < batch:
        raise ConfigError(
            f"the training data has {images} images, fewer than "
            f"dataloader.train.total_batch_size={batch}; lower that"
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """One process of a launched job.

    Returns:
        The last evaluation results, on the main process; {} on the others.
    """
    if not torch.cuda.is_available() and comm.get_world_size() > 1:
        # Processes of one machine share its cores.
        cores = os.cpu_count() or 1
        torch.set_num_threads(max(min(torch.get_num_threads(), cores // args.num_gpus), 1))
    cfg = load_args(args)
    prepare_data(cfg)
    setup_run(cfg, args)
    if args.eval_only:
        return evaluate(cfg)
    trainer = DetectionTrainer(cfg)
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
    return as_dict(DetectionTrainer.test(yacs_view(cfg), model))
