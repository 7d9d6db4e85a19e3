"""Configs that come with the package, by name, as in :mod:`detectron2.model_zoo`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from omegaconf import DictConfig
from torch import nn

from ..checkpoint import SCORED, load_checkpoint_file, load_weights
from ..config import get_config_file, list_configs, load_config
from ..engine import build_model
from ..weights_files import find_weights, weights_of

__all__ = ["get", "get_config", "get_config_file", "list_configs"]

_Source = Literal[True] | str | os.PathLike[str]
Trained = Literal[False] | _Source


def get_config(name: str, trained: Trained = False) -> DictConfig:
    """Load a config.

    Args:
        name: see :func:`get_config_file`.
        trained: whether ``train.init_checkpoint`` shall name weights for it, see :func:`get`.

    Raises:
        FileNotFoundError: if there is no such config, or no such weights.
    """
    cfg = load_config(get_config_file(name))
    if trained is not False:
        cfg.train.init_checkpoint = _checkpoint_for(name, trained)
    return cfg


def get(
    name: str,
    trained: Trained = False,
    num_classes: int | None = None,
    weights: str = SCORED,
    class_names: Sequence[str] | None = None,
) -> nn.Module:
    """Build a model in evaluation mode, on the GPU if there is one.

    Args:
        name: see :func:`get_config_file`.
        trained: False for random weights; a file to load, ours or a published one; True to look for
            ``NAME.safetensors``, ``NAME.pth`` or the file that was published in the folder that
            the environment variable ``SAP_DETR_CHECKPOINTS`` names, for example
            ``detr/detr_r50_500ep.pth``. What is not there is fetched, if it has a plain address.
        num_classes: number of classes; by default that of the weights, if they name their classes,
            or the config's, which is COCO's.
        weights: "scored" for those that were evaluated, the moving average where the training kept
            one; "raw" for those of which it is the average. The log says which.
        class_names: names of the classes in the order in which detections shall number them, such
            as that of a data set; by default that of the weights.

    Raises:
        FileNotFoundError: if there is no such config, or no such weights.
    """
    cfg = get_config(name, trained)
    checkpoint = {} if trained is False else load_checkpoint_file(cfg.train.init_checkpoint)
    names = checkpoint.get("class_names") if class_names is None else class_names
    if num_classes is None and names:
        num_classes = len(names)
    if num_classes is not None:
        cfg.model.num_classes = num_classes
    model = build_model(cfg)
    if trained is not False:
        source = cfg.train.init_checkpoint
        report = load_weights(model, checkpoint, class_names, source=source, weights=weights)
        report.require_complete()
    return model.eval()


def _checkpoint_for(name: str, trained: _Source) -> str:
    if trained is True:
        return str(weights_of(name))
    path = find_weights(trained)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {os.fspath(trained)!r}")
    return str(path)
