"""Configs: finding and loading LazyConfig files, overriding them, resolving data, and yacs."""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .checkpoint import load_checkpoint_file
from .config_files import ConfigError as ConfigError
from .config_files import get_config_file as get_config_file
from .config_files import list_configs as list_configs
from .data import DatasetError, PixelRange, dataset_class_names
from .data.registry import class_names
from .own_modules import check_callables, make_importable
from .text import listing

logger = logging.getLogger(__name__)

# What the recipes say, which are for COCO.
COCO_NUM_CLASSES = 80
# Last parts of keys whose values are paths.
_PATH_KEYS = ("folder", "output_dir", "init_checkpoint", "import_from")
# Kinds of values that a change keeps. A bool is an int too.
_KINDS: dict[str, tuple[type, ...]] = {
    "true or false": (bool,),
    "a number": (int, float),
    "a list": (list, tuple, ListConfig),
    "a part with keys of its own": (dict, DictConfig),
}
# Keys that earlier versions had, and what does the same now.
_RENAMED = {
    "schedule.epochs": "train.max_iter, or train.epochs in the recipes for one's own data",
    "schedule.drop_epochs": "lr_multiplier.scheduler.milestones",
    "schedule.drop_factor": "lr_multiplier.scheduler.values",
    "schedule.warmup_iters": "lr_multiplier.warmup_length, a share of the training",
    "schedule.warmup_factor": "lr_multiplier.warmup_factor",
}


def load_config(path_or_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a LazyConfig file and change it.

    Configs are code: loading a ``.py`` file runs it, and building what a config describes calls
    whatever its ``_target_`` keys name. Load only files that you trust. Loading a ``.yaml`` file
    runs nothing yet.

    Modules that lie beside a ``.py`` file can be imported by it. If it calls any of them, the
    config says where they are, ``import_from``, so that what a run saves of it finds them too.

    Args:
        path_or_name: a ``.py`` or ``.yaml`` file, or a name of :func:`list_configs` such as
            ``detr/detr_r50_500ep.py``.
        overrides: changes as ``key.path=value``. A key that does not exist is an error, because it
            is most often misspelt; ``+key.path=value`` adds it, and ``~key.path`` removes one.
            Values are written as in Hydra: ``3``, ``1e-4``, ``true``, ``null``, ``[1,2]``, text.
            Those of paths are taken as they stand, with ``~`` for the home folder.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a name.
        ConfigError: if an override has no ``=``, names a key that does not exist, or gives a value
            of another type than the config has there, a ``.yaml`` file can't be read or holds
            more than plain values, or a ``.py`` file defines itself what it calls.
    """
    path = path_or_name if Path(path_or_name).is_file() else get_config_file(path_or_name)
    cfg = _load_python(Path(path)) if path.endswith(".py") else _load_yaml(path)
    for override in overrides:
        _check_override(cfg, override)
        _apply_override(cfg, override)
    try:
        # An interpolation that leads nowhere would come up only where it is read.
        OmegaConf.to_container(cfg, resolve=bool(overrides))
    except OmegaConfBaseException as error:
        text = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key} can't be read any more: {text}") from error
    if "import_from" in cfg:
        _import_from(cfg.import_from, path)
    return cfg


def _load_python(path: Path) -> DictConfig:
    """Load a LazyConfig file, with what lies beside it."""
    folder = path.resolve().parent
    make_importable(folder)
    cfg: DictConfig = LazyConfig.load(str(path))
    beside = check_callables(OmegaConf.to_container(cfg, resolve=False), path.resolve())
    if beside and "import_from" not in cfg:
        cfg.import_from = str(folder)
    return cfg


def _import_from(folder: str, config: str) -> None:
    """Let the modules be imported that a config names.

    Raises:
        ConfigError: the folder is not there any more.
    """
    if not Path(folder).is_dir():
        raise ConfigError(
            f"{config} needs modules that were in {folder} (import_from), which is not there any "
            "more: say where they are with import_from=FOLDER"
        )
    make_importable(Path(folder).resolve())


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads what ``LazyConfig.save`` writes, tuples included, and makes no other Python objects."""


_PlainLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node))
)


def _load_yaml(path: str) -> DictConfig:
    """Load like ``LazyConfig.load``, by which a file may name functions that reading it calls."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path} can't be read as a config: {error}. A yaml config may hold plain values only; "
            "its _target_ keys say by name what is to be called"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a config: it holds a {type(content).__name__}, not keys")
    cfg: DictConfig = OmegaConf.create(content, flags={"allow_objects": True})
    return cfg


def _check_override(cfg: DictConfig, override: str) -> None:
    key, equals, _ = override.partition("=")
    if override.startswith("-"):
        raise ConfigError(
            f"{override!r} stands behind the changes to the config: options such as --resume go "
            "before the first key.path=value"
        )
    if not equals and not key.startswith("~"):
        raise ConfigError(f"cannot read the override {override!r}: write it as key.path=value")
    if not re.fullmatch(r"[+~]?[^\s.+~]+(\.[^\s.]+)*", key):
        raise ConfigError(f"cannot read the key of the override {override!r}: write key.path=value")
    if key.startswith("+"):
        return
    key = key.removeprefix("~")
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if OmegaConf.is_list(node) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
            continue
        # Not `in node`, which is false of keys that are there without a value ("???").
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118
            raise ConfigError(_unknown_key(node, parts, depth, override))
        node = node._get_node(part) if OmegaConf.is_missing(node, part) else node[part]


def _unknown_key(node: Any, parts: Sequence[str], depth: int, override: str) -> str:
    """Say that there is no key ``parts[depth]`` in ``node``, and what was probably meant."""
    part, where = parts[depth], ".".join(parts[:depth]) or "the config"
    known = [str(key) for key in node] if isinstance(node, DictConfig) else []
    known = [key for key in known if not key.startswith("_")]
    text = f"there is no key {part!r} in {where} (override {override!r}). "
    renamed = _RENAMED.get(".".join(parts))
    if renamed is not None:
        return f"{text}It is now {renamed}"
    if part.isdecimal() and int(part) < len(known):
        # Losses and costs were lists once, in this order.
        return f"{text}Its parts have names: write {where}.{known[int(part)]}, one of {known}"
    if part == "epochs" and where == "train":
        return f"{text}This recipe counts iterations: set train.max_iter"
    close = difflib.get_close_matches(part, known, n=3) or sorted(known)
    return f"{text}Did you mean one of {close}? To add a key, write +{override}"


def _apply_override(cfg: DictConfig, override: str) -> None:
    """Make a change whose key is in order."""
    key, _, text = override.partition("=")
    if key.startswith("~"):
        parent, _, name = key.removeprefix("~").rpartition(".")
        del (OmegaConf.select(cfg, parent) if parent else cfg)[name]
        return
    added, key = key.startswith("+"), key.removeprefix("+")
    before = OmegaConf.select(cfg, key) if not added else None
    value = _read_value(key, text)
    if not _suits(value, before):
        example = "" if isinstance(before, DictConfig) else f", such as {before!r}"
        raise ConfigError(f"{key}={text}: {_kind(before)} is expected here{example}")
    try:
        OmegaConf.update(cfg, key, value, merge=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"cannot set {override!r}: {str(error).splitlines()[0]}") from error


def _read_value(key: str, text: str) -> Any:
    """Read a value as Hydra does; a path, and what Hydra can't read, is the text itself."""
    if key.rpartition(".")[2] in _PATH_KEYS and text != "null":
        # A dollar and a brace would be an interpolation.
        return os.path.expanduser(text).replace("${", "\\${")
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text


def _suits(value: Any, before: Any) -> bool:
    """Say whether a value can stand where another one stood."""
    if value is None or before is None or isinstance(before, str):
        return True
    if isinstance(value, str) and "${" in value:
        return True
    return _kind(before) in ("", _kind(value))


def _kind(value: Any) -> str:
    """Name the kind of a value; "" for one of no kind that has to stay."""
    for kind, types in _KINDS.items():
        if isinstance(value, types):
            return kind
    return ""


def register_data(cfg: DictConfig) -> None:
    """Register the config's own data set in Detectron2's catalogs, if it has one: ``dataset``.

    Args:
        cfg: if that has no validation split, its name is taken out of
            ``dataloader.test.dataset.names``.

    Raises:
        ConfigError, DatasetError, FileNotFoundError: if that is not possible.
    """
    if "dataset" not in cfg:
        return
    registered = build_part("dataset", cfg.dataset)
    lacking = f"{cfg.dataset.get('name')}_val"
    if isinstance(registered, list) and "dataloader" in cfg and lacking not in registered:
        tested = cfg.dataloader.test.dataset
        tested.names = [name for name in as_list(tested.names) if name != lacking]


def build_part(key: str, described: DictConfig) -> Any:
    """Build a part of a config for which there was no data yet.

    Args:
        key: where the part stands, for the message.
        described: the part.

    Raises:
        ConfigError: whatever the part raises, what it was given is at fault.
        DatasetError, FileNotFoundError: as the part raises them.
    """
    # Detectron2 logs some of the errors that it raises.
    log = logging.getLogger(instantiate.__module__)
    disabled, log.disabled = log.disabled, True
    try:
        return instantiate(described)
    except (ConfigError, DatasetError, FileNotFoundError):
        raise
    except Exception as error:
        cause = error.__cause__ or error
        text = " ".join(str(cause).split())
        surplus = _surplus_arguments(described) if isinstance(cause, TypeError) else []
        if surplus:
            removals = " ".join(f"~{key}.{name}" for name in surplus)
            text += f". To leave out what it does not take, add {removals}"
        raise ConfigError(
            f"{key} can't be built from its settings: {type(cause).__name__}: {text}"
        ) from error
    finally:
        log.disabled = disabled


def find_target(key: str, described: Mapping[str, Any]) -> Any:
    """Return the class or function that a part of a config calls.

    Args:
        key: where the part stands, for the message.
        described: the part.

    Raises:
        ConfigError: it names none, or nothing that can be called.
    """
    target = described.get("_target_") if isinstance(described, Mapping) else None
    if target is None:
        raise ConfigError(f"{key}: a part with _target_, the name of a class, is expected")
    try:
        found = locate(target) if isinstance(target, str) else target
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{key}._target_={target}: there is nothing of this name") from error
    if not callable(found):
        raise ConfigError(f"{key}._target_={target} is not a class")
    return found


def _surplus_arguments(described: DictConfig) -> list[str]:
    """Return the keys of a part that what is to be called does not take."""
    parameters = inspect.signature(find_target("", described)).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return []
    return [str(key) for key in described if key != "_target_" and key not in parameters]


def prepare_data(cfg: DictConfig) -> list[str] | None:
    """Register the config's own data set, if it has one, and settle the number of classes.

    Args:
        cfg: ``model.num_classes`` and ``train.class_names`` are set in place.

    Returns:
        The names of the classes; None if no data set is named.

    Raises:
        ConfigError: if ``model.num_classes`` is given and is not that of the data.
        DatasetError, FileNotFoundError: if a data set can't be loaded.
    """
    register_data(cfg)
    names = as_list(cfg.dataloader.train.dataset.names) if "dataloader" in cfg else None
    if names is None:
        resolve_num_classes(cfg, None, "")
        return None
    classes = dataset_class_names(names)
    resolve_num_classes(cfg, classes, f"the training data ({', '.join(names)})")
    cfg.train.class_names = classes
    return classes


def resolve_num_classes(cfg: DictConfig, class_names: Sequence[str] | None, source: str) -> None:
    """Set ``cfg.model.num_classes`` from the data, or check it if the config gives a number.

    Args:
        cfg: changed in place. A number that is that of the recipes, COCO's, gives way to the data.
        class_names: names of the data set's classes; None if no data set says.
        source: where the names come from, for the error message.

    Raises:
        ConfigError: if the two numbers differ, or there is none.
    """
    given = cfg.model.num_classes
    if class_names is None:
        if given is None:
            raise ConfigError(
                "the number of classes is not known: no data set gives it, so set model.num_classes"
            )
        return
    if given in (None, COCO_NUM_CLASSES):
        cfg.model.num_classes = len(class_names)
    elif given != len(class_names):
        raise ConfigError(
            f"model.num_classes is {given}, but {source} has {len(class_names)} classes: "
            f"{listing(class_names)}. Leave model.num_classes out to take the number from the data"
        )


def as_list(names: str | Sequence[str] | ListConfig) -> list[str]:
    """Return data set names of a config, which may be one or several, as a list."""
    return [names] if isinstance(names, str) else list(names)


def num_queries(cfg: DictConfig) -> int | None:
    """Return how many objects a config's model can find in an image; None if it does not say."""
    decoder = cfg.model.decoder
    if "num_queries" in decoder:
        return int(decoder.num_queries)
    return math.prod(decoder.grid_size) if "grid_size" in decoder else None


def pixel_range(cfg: DictConfig) -> PixelRange:
    """Return what a config makes of images of more than 8 bits.

    Raises:
        ConfigError: if ``dataloader.pixel_range`` is none.
    """
    try:
        return PixelRange.parse(cfg.get("dataloader", {}).get("pixel_range", "full"))
    except ValueError as error:
        raise ConfigError(f"dataloader.{error}") from None


def add_sap_detr_config(cfg: CfgNode) -> None:
    """Add the keys that let a yacs config name a LazyConfig model.

    ``MODEL.LAZY_CONFIG``: a LazyConfig file or a zoo name; its ``model`` is built.
    ``MODEL.LAZY_OVERRIDES``: changes to it, as a list of ``key.path=value``.

    The number of classes is that of ``DATASETS.TRAIN`` unless an override sets it, and images come
    in the order of ``INPUT.FORMAT``.
    """
    cfg.MODEL.META_ARCHITECTURE = "DetectionTransformer"
    cfg.MODEL.LAZY_CONFIG = ""
    cfg.MODEL.LAZY_OVERRIDES = []


def model_arguments_from_yacs(cfg: CfgNode) -> dict[str, Any]:
    """Build the parts of the model that a yacs config names, by argument of the meta-architecture.

    Raises:
        ConfigError: if ``MODEL.LAZY_CONFIG`` is missing or empty, class numbers disagree, or the
            classes of ``MODEL.WEIGHTS`` come in another order than those of the data.
    """
    name = cfg.MODEL.get("LAZY_CONFIG", "")
    if not name:
        raise ConfigError(
            "MODEL.LAZY_CONFIG is empty: call sap_detr.config.add_sap_detr_config(cfg) and set it "
            "to a LazyConfig file or a zoo name such as 'detr/detr_r50_500ep.py'"
        )
    lazy = load_config(name, cfg.MODEL.LAZY_OVERRIDES)
    trained = list(cfg.DATASETS.TRAIN)
    # Of data sets that give no names before they are loaded, nothing can be said here.
    tested = [name for name in cfg.DATASETS.TEST if class_names(name) is not None]
    names = dataset_class_names([*trained, *tested]) if trained else None
    resolve_num_classes(lazy, names, f"DATASETS.TRAIN {tuple(trained)}")
    if names is not None and Path(cfg.MODEL.WEIGHTS).is_file():
        _check_class_order(cfg.MODEL.WEIGHTS, names)
    parts = {key: instantiate(value) for key, value in lazy.model.items() if key != "_target_"}
    return {**parts, "input_format": cfg.INPUT.FORMAT}


def _check_class_order(weights: str, names: list[str]) -> None:
    """Refuse weights whose rows Detectron2's checkpointer would give to other classes."""
    stored = load_checkpoint_file(weights).get("class_names")
    if stored and len(stored) == len(names) and list(stored) != names:
        raise ConfigError(
            f"MODEL.WEIGHTS={weights} has the classes {listing(stored)}, DATASETS.TRAIN has "
            f"{listing(names)}, and Detectron2's checkpointer goes by their order. Leave "
            "MODEL.WEIGHTS empty and load them by name, with sap_detr.checkpoint.load_weights("
            "model, file, class_names=[...])"
        )
