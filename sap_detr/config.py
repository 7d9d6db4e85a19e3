"""Configs: loading LazyConfig files by path or name, overriding them, and the bridge to yacs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf


class ConfigError(ValueError):
    """A config, or a change to one, makes no sense. The message says which key and why."""


def load_config(path_or_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Loads a LazyConfig file and changes it.

    Configs are code: loading a ``.py`` file runs it, and building what a config describes calls
    whatever its ``_target_`` keys name. Load only files that you trust. Loading a ``.yaml`` file
    runs nothing yet.

    Args:
        path_or_name: a ``.py`` or ``.yaml`` file, or a name of :mod:`sap_detr.model_zoo` such as
            ``detr/detr_r50_500ep.py``.
        overrides: changes as ``key.path=value``. A key that does not exist is an error, because it
            is most often misspelt; ``+key.path=value`` adds it.

    Raises:
        FileNotFoundError: if there is neither such a file nor such a name.
        ConfigError: if an override has no ``=`` or names a key that does not exist, or a ``.yaml``
            file can't be read or holds more than plain values.
    """
    from . import model_zoo

    path = path_or_name if Path(path_or_name).is_file() else model_zoo.get_config_file(path_or_name)
    cfg = LazyConfig.load(path) if path.endswith(".py") else _load_yaml(path)
    for override in overrides:
        _check_override(cfg, override)
    if overrides:
        # Detectron2 adds keys that do not exist by itself.
        cfg = LazyConfig.apply_overrides(cfg, [o.removeprefix("+") for o in overrides])
    return cfg


class _PlainLoader(yaml.SafeLoader):
    """Reads what ``LazyConfig.save`` writes, tuples included, and makes no other Python objects."""


_PlainLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node))
)


def _load_yaml(path: str) -> DictConfig:
    """Like ``LazyConfig.load``, which lets a file name functions that are called as it is read."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{path} can't be read as a config: {error}. A yaml config may hold plain values only; "
            "its _target_ keys say by name what is to be called"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a config: it holds a {type(content).__name__}, not keys")
    return OmegaConf.create(content, flags={"allow_objects": True})


def _check_override(cfg: DictConfig, override: str) -> None:
    key, equals, _ = override.partition("=")
    if override.startswith("-"):
        raise ConfigError(
            f"{override!r} stands behind the changes to the config: options such as --resume go "
            "before the first key.path=value"
        )
    if not equals:
        raise ConfigError(f"cannot read the override {override!r}: write it as key.path=value")
    if key.startswith("+"):
        return
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if OmegaConf.is_list(node) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        # Not `in node`, which is false of keys that are there without a value ("???").
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118
            known = [str(k) for k in node] if isinstance(node, DictConfig) else []
            where = ".".join(parts[:depth]) or "the config"
            close = difflib.get_close_matches(part, known, n=3) or sorted(known)
            raise ConfigError(
                f"there is no key {part!r} in {where} (override {override!r}). "
                f"Did you mean one of {close}? To add a key, write +{override}"
            )
        node = node._get_node(part) if OmegaConf.is_missing(node, part) else node[part]


def resolve_num_classes(cfg: DictConfig, class_names: Sequence[str] | None, source: str) -> None:
    """Sets ``cfg.model.num_classes`` from the data, or checks it if the config gives a number.

    Args:
        cfg: changed in place.
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
    if given is None:
        cfg.model.num_classes = len(class_names)
    elif given != len(class_names):
        raise ConfigError(
            f"model.num_classes is {given}, but {source} has {len(class_names)} classes: "
            f"{_shorten(class_names)}. Leave model.num_classes out to take the number from the data"
        )


def _shorten(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ..."


def add_sap_detr_config(cfg: CfgNode) -> None:
    """Adds the keys that let a yacs config name a LazyConfig model.

    ``MODEL.LAZY_CONFIG``: a LazyConfig file or a zoo name; its ``model`` is built.
    ``MODEL.LAZY_OVERRIDES``: changes to it, as a list of ``key.path=value``.

    The number of classes is that of ``DATASETS.TRAIN`` unless an override sets it, and images come
    in the order of ``INPUT.FORMAT``.
    """
    cfg.MODEL.META_ARCHITECTURE = "DetectionTransformer"
    cfg.MODEL.LAZY_CONFIG = ""
    cfg.MODEL.LAZY_OVERRIDES = []


def model_arguments_from_yacs(cfg: CfgNode) -> dict[str, Any]:
    """The built parts of the model that a yacs config names, by argument of the meta-architecture.

    Raises:
        ConfigError: if ``MODEL.LAZY_CONFIG`` is missing or empty, or class numbers disagree.
    """
    name = cfg.MODEL.get("LAZY_CONFIG", "")
    if not name:
        raise ConfigError(
            "MODEL.LAZY_CONFIG is empty: call sap_detr.config.add_sap_detr_config(cfg) and set it "
            "to a LazyConfig file or a zoo name such as 'detr/detr_r50_500ep.py'"
        )
    lazy = load_config(name, cfg.MODEL.LAZY_OVERRIDES)
    names, source = None, ""
    if cfg.DATASETS.TRAIN:
        from .data import dataset_class_names

        names = dataset_class_names(list(cfg.DATASETS.TRAIN))
        source = f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)}"
    resolve_num_classes(lazy, names, source)
    arguments: Mapping[str, Any] = {
        key: instantiate(value) for key, value in lazy.model.items() if key != "_target_"
    }
    return {**arguments, "input_format": cfg.INPUT.FORMAT}
