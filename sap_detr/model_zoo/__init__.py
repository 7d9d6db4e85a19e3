"""Configs that come with the package, by name, as in :mod:`detectron2.model_zoo`."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

CHECKPOINT_FOLDER_VARIABLE = "SAP_DETR_CHECKPOINTS"


def _config_root() -> Path:
    """The folder of the configs: inside an installed package, at the top of a source tree."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def list_configs() -> list[str]:
    """Names of all recipes, such as ``detr/detr_r50_500ep.py``."""
    root = _config_root()
    files = sorted(root.glob("**/*.py")) + sorted(root.parent.glob("projects/*/configs/*.py"))
    names = [_name_of(file, root) for file in files]
    # "common" folders hold parts.
    return [name for name in names if "common" not in name.split("/")]


def _name_of(file: Path, root: Path) -> str:
    if file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    return f"{file.parents[1].name}/{file.name}"


def get_config_file(name: str) -> str:
    """The path of a config.

    Args:
        name: such as ``detr/detr_r50_500ep.py``; the ending and a leading ``configs/`` may be left
            out.

    Raises:
        FileNotFoundError: if there is none of this name; the message lists what there is.
    """
    root = _config_root()
    wanted = name.removeprefix("configs/").removesuffix(".py") + ".py"
    project, _, file = wanted.partition("/")
    for path in (root / wanted, root.parent / "projects" / project / "configs" / file):
        if path.is_file():
            return str(path)
    known = list_configs()
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    raise FileNotFoundError(
        f"{name!r} is neither a file nor a config of this package. "
        + (f"Close names: {', '.join(close)}. " if close else "")
        + f"All names: {', '.join(known)}"
    )


def get_config(name: str, trained: bool | str = False) -> DictConfig:
    """Loads a config.

    Args:
        name: see :func:`get_config_file`.
        trained: whether ``train.init_checkpoint`` shall name weights for it, see :func:`get`.

    Raises:
        FileNotFoundError: if there is no such config, or no such weights.
    """
    from ..config import load_config

    cfg = load_config(get_config_file(name))
    if trained:
        cfg.train.init_checkpoint = _checkpoint_for(name, trained)
    return cfg


def get(name: str, trained: bool | str = False, num_classes: int | None = None) -> nn.Module:
    """Builds a model in evaluation mode, on the GPU if there is one.

    Args:
        name: see :func:`get_config_file`.
        trained: False for random weights; a file to load, ours or a published one; True to look for
            ``NAME.safetensors`` or ``NAME.pth`` in the folder that the environment variable
            ``SAP_DETR_CHECKPOINTS`` names, for example ``detr/detr_r50_500ep.pth``. No weights are
            downloaded.
        num_classes: number of classes; by default that of the weights, if they name their classes,
            or of the config's data set, if Detectron2 knows it without looking at files.

    Raises:
        FileNotFoundError: if there is no such config, or no such weights.
        ConfigError: if the number of classes is not known.
    """
    from ..checkpoint import load_checkpoint_file, load_weights
    from ..engine.setup import build_model, prepare_data

    cfg = get_config(name, trained)
    checkpoint = load_checkpoint_file(cfg.train.init_checkpoint) if trained else {}
    if num_classes is None and checkpoint.get("class_names"):
        num_classes = len(checkpoint["class_names"])
    if num_classes is not None:
        cfg.model.num_classes = num_classes
    elif "dataset" not in cfg:
        prepare_data(cfg)
    model = build_model(cfg)
    if trained:
        load_weights(model, checkpoint, source=cfg.train.init_checkpoint).require_complete()
    return model.eval()


def _checkpoint_for(name: str, trained: bool | str) -> str:
    if isinstance(trained, str):
        if not Path(trained).is_file():
            raise FileNotFoundError(f"there is no checkpoint file {trained}")
        return trained
    folder = os.environ.get(CHECKPOINT_FOLDER_VARIABLE)
    stem = name.removeprefix("configs/").removesuffix(".py")
    if not folder:
        raise FileNotFoundError(
            f"trained=True looks for weights of {stem} in the folder that the environment variable "
            f"{CHECKPOINT_FOLDER_VARIABLE} names, and it is not set. Set it, or pass the file"
        )
    candidates = [Path(folder) / (stem + suffix) for suffix in (".safetensors", ".pth")]
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    raise FileNotFoundError(f"no weights of {stem}: looked for {', '.join(map(str, candidates))}")
