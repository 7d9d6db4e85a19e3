"""What happens before training or evaluation: device, folders, logs, model."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

from ..check_env import check_environment
from ..config import ConfigError, resolve_num_classes
from ..modeling import DetectionTransformer, checkpoint_activations

logger = logging.getLogger(__name__)


def choose_device(device: str | None) -> str:
    """Return the device of a config; None is the GPU if there is one, else the CPU.

    Raises:
        ConfigError: if there is no such device, or a GPU is asked for and there is none.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Not a number, which would stand for a GPU.
        torch.device(device if isinstance(device, str) else "")
    except RuntimeError as error:
        raise ConfigError(f"train.device={device}: cpu, cuda or null is expected") from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"train.device={device}, but torch sees no GPU. "
            "Run sap-detr env, or set train.device=cpu"
        )
    return device


def build_model(cfg: DictConfig) -> nn.Module:
    """Build the model of a config on its device.

    Raises:
        ConfigError: if the number of classes is not settled.
    """
    if cfg.model.num_classes is None:
        resolve_num_classes(cfg, None, "")
    model: nn.Module = instantiate(cfg.model).to(choose_device(cfg.train.device))
    return model


def accelerate(model: nn.Module, train: DictConfig) -> None:
    """Do what ``train.activation_checkpointing`` and ``train.compile`` say, in place.

    After the moving average was made, which copies the model.

    Raises:
        ConfigError: if the model is none of ours.
    """
    options: dict[str, Any] = dict(train.compile)
    compiles = options.pop("enabled")
    if not (compiles or train.activation_checkpointing):
        return
    if not isinstance(model, DetectionTransformer):
        raise ConfigError(
            "train.compile and train.activation_checkpointing are for DetectionTransformer, "
            f"the model is {type(model).__name__}"
        )
    if train.activation_checkpointing:
        checkpoint_activations(model)
    if compiles:
        if model.size_multiple == 1:
            logger.warning(
                "train.compile: every size of a batch is compiled anew. Unless all images have "
                "the same one, set model.size_multiple, such as 128"
            )
        if model.padding_invariant:
            logger.warning(
                "train.compile: with model.padding_invariant, batches of images of several sizes "
                "are not compiled"
            )
        model.compile_network(**options)


def setup_run(cfg: DictConfig, notes: Iterable[str] = ()) -> None:
    """Make the output folder, start the logs and seed the random generators.

    Detectron2's ``default_setup`` without its environment report, which takes ten seconds.

    Args:
        cfg: ``train.output_dir``, ``train.seed`` and ``train.cudnn_benchmark`` are read.
        notes: lines for the log about how the run was started.
    """
    output_dir = cfg.train.output_dir
    if comm.is_main_process():
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    rank = comm.get_rank()
    for name in ("fvcore", "detectron2", "sap_detr"):
        setup_logger(output_dir, distributed_rank=rank, name=name)
    logger.info(
        f"rank {rank} of {comm.get_world_size()}: process {os.getpid()} on {socket.gethostname()}"
    )
    if comm.is_main_process():
        logger.info(f"environment:\n{check_environment()}")
        for note in notes:
            logger.info(note)
    seed_all_rng(cfg.train.seed + rank)
    torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark
