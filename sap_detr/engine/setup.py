"""What happens before training or evaluation: folders, logs, data, model."""

from __future__ import annotations

import argparse
import logging
import os
import socket
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, ListConfig
from torch import nn

from ..config import ConfigError, resolve_num_classes
from ..modeling import DetectionTransformer, checkpoint_activations
from .topology import Topology

logger = logging.getLogger(__name__)


def choose_device(device: str | None) -> str:
    """The device of a config; None is the GPU if there is one, else the CPU.

    Raises:
        ConfigError: if a GPU is asked for and there is none.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"train.device={device}, but torch sees no GPU. "
            "Run python -m sap_detr.check_env, or set train.device=cpu"
        )
    return device


def prepare_data(cfg: DictConfig) -> list[str] | None:
    """Registers the config's own data set, if it has one, and settles the number of classes.

    Args:
        cfg: ``dataset``, where present, is instantiated (it registers names in Detectron2's
            catalogs); ``model.num_classes`` and ``train.class_names`` are set in place.

    Returns:
        The names of the classes; None if no data set is named.

    Raises:
        ConfigError: if ``model.num_classes`` is given and is not that of the data.
    """
    from ..data import dataset_class_names

    if "dataset" in cfg:
        instantiate(cfg.dataset)
    names = cfg.dataloader.train.dataset.names if "dataloader" in cfg else None
    if names is None:
        resolve_num_classes(cfg, None, "")
        return None
    listed = as_list(names)
    classes = dataset_class_names(listed)
    resolve_num_classes(cfg, classes, f"the training data ({', '.join(listed)})")
    cfg.train.class_names = classes
    return classes


def build_model(cfg: DictConfig) -> nn.Module:
    """Builds the model of a config on its device.

    Raises:
        ConfigError: if the number of classes is not settled.
    """
    if cfg.model.num_classes is None:
        resolve_num_classes(cfg, None, "")
    return instantiate(cfg.model).to(choose_device(cfg.train.device))


def accelerate(model: nn.Module, train: DictConfig) -> None:
    """Does what ``train.activation_checkpointing`` and ``train.compile`` say, in place.

    After the moving average was made, which copies the model.

    Raises:
        ConfigError: if the model is none of ours.
    """
    options = dict(train.compile)
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


def setup_run(
    cfg: DictConfig, args: argparse.Namespace | None = None, topology: Topology | None = None
) -> None:
    """Makes the output folder, starts the logs, saves the config and seeds the random generators.

    Detectron2's ``default_setup`` without its environment report, which takes ten seconds.
    """
    from ..check_env import check_environment

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
        logger.info(f"command line: {args}")
        if topology is not None:
            logger.info(f"processes: {topology}")
            if topology.restarts > 0:
                logger.info(f"restart {topology.restarts}: going on from the newest checkpoint")
        path = str(Path(output_dir) / "config.yaml")
        LazyConfig.save(cfg, path)
        logger.info(f"full config saved to {path}")
    seed_all_rng(cfg.train.seed + rank)
    torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark


def as_list(names: str | ListConfig) -> list[str]:
    """Data set names of a config, which may be one or several."""
    return [names] if isinstance(names, str) else list(names)


def as_dict(results: Any) -> dict[str, Any]:
    """Evaluation results without Detectron2's containers; {} on processes that have none."""
    return {key: dict(value) for key, value in (results or {}).items()}
