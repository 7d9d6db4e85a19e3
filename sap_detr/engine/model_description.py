"""What a file of weights says of its model, so that no config is needed beside it.

A description is data: names, numbers and text. What it names is built only if it is a part of this
package, so that a file from anywhere can call nothing else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..checkpoint import CheckpointError
from ..config import ConfigError, pixel_range
from ..config_values import TARGET, plain, walk
from ..data import PixelRange
from ..text import shorten
from .setup import choose_device

_FORMAT = 1
# Packages whose public classes and build_... functions take numbers, and make parts of models or
# augmentations of them.
_OURS = re.compile(r"sap_detr\.(modeling|layers|projects\.\w+|data\.transforms)(\.\w+)*")
_OTHERS = {
    "builtins.dict",
    "detectron2.data.transforms.augmentation_impl.Resize",
    "detectron2.data.transforms.augmentation_impl.ResizeShortestEdge",
}


@dataclass(frozen=True)
class ModelDescription:
    """A model and what is done to an image before it, as data that JSON can hold.

    Attributes:
        model: the model's part of a config, without interpolations.
        augmentations: described, a part or a list of parts; for inference.
        image_format: channel order that the model takes, "RGB" or "BGR".
        pixel_range: what becomes of images of more than 8 bits, see :class:`PixelRange`.
        thresholds: per class, the score from which on a detection is best believed, 0..1; None if
            no report has found that out.

    Raises:
        CheckpointError: something is of another kind, or a ``_target_`` is none that may be built.
    """

    model: dict[str, Any]
    augmentations: Any
    image_format: str = "RGB"
    pixel_range: str = "full"
    thresholds: list[float] | None = None

    def __post_init__(self) -> None:
        for part, described in (("model", self.model), ("augmentations", self.augmentations)):
            for where, node in walk(described, part):
                if isinstance(node, dict) and TARGET in node:
                    _check_target(node[TARGET], where)
        if TARGET not in self.model:
            raise CheckpointError(f"its description of the model has no {TARGET}")
        if self.image_format not in ("RGB", "BGR"):
            raise CheckpointError(f"its image_format is {shorten(self.image_format)}: RGB or BGR")
        if self.thresholds is not None and not _are_scores(self.thresholds):
            raise CheckpointError("its thresholds are no list of numbers from 0 to 1")
        try:
            PixelRange.parse(self.pixel_range)
        except ValueError as error:
            raise CheckpointError(f"its {error}") from error

    @classmethod
    def from_config(cls, cfg: DictConfig) -> ModelDescription:
        """Describe the model of a config whose number of classes is settled.

        Raises:
            ConfigError: a part can't be described, because it is none of this package's, or of
                another form than in the recipes.
        """
        try:
            mapper = cfg.dataloader.test.mapper
            return cls(
                _as_data(cfg.model, "model"),
                _as_data(mapper.augmentations, "dataloader.test.mapper.augmentations"),
                mapper.get("image_format", "RGB"),
                str(pixel_range(cfg)),
            )
        except (CheckpointError, ImportError, OmegaConfBaseException) as error:
            text = str(error).splitlines()[0]
            raise ConfigError(f"the model of this config can't be described: {text}") from error

    @classmethod
    def from_data(cls, data: Any) -> ModelDescription:
        """Read what :meth:`as_data` returned; nothing is built.

        Raises:
            CheckpointError: it is something else.
        """
        keys = {"format", *cls.__dataclass_fields__}
        if not isinstance(data, Mapping) or data.keys() | {"thresholds"} != keys:
            raise CheckpointError(f"its description of the model has not the keys {sorted(keys)}")
        content = dict(data)
        number = content.pop("format")
        if number != _FORMAT:
            raise CheckpointError(
                f"its description of the model is of format {shorten(number)}, this version of "
                f"sap_detr reads {_FORMAT}"
            )
        if not isinstance(content["model"], dict):
            raise CheckpointError("its description of the model is no dict")
        return cls(**content)

    def as_data(self) -> dict[str, Any]:
        """Return the description as plain containers."""
        data = {"format": _FORMAT, **asdict(self)}
        if self.thresholds is None:
            # Earlier versions, which know of none, read the file too.
            del data["thresholds"]
        return data

    def build_model(self, device: str | None = None) -> nn.Module:
        """Build the model, with random weights.

        Args:
            device: such as "cuda"; None for the GPU if there is one.

        Raises:
            CheckpointError: the parts do not take what is described.
            ConfigError: there is no such device.
        """
        chosen = choose_device(device)
        model: nn.Module = _build(self.model).to(chosen)
        return model

    def build_augmentations(self) -> T.Augmentation:
        """Build what is done to an image before the model sees it.

        Raises:
            CheckpointError: the parts do not take what is described.
        """
        built = _build(self.augmentations)
        return T.AugmentationList(built if isinstance(built, list) else [built])


def _are_scores(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, float | int) and not isinstance(v, bool) and 0 <= v <= 1 for v in values
    )


def _build(described: Any) -> Any:
    try:
        return instantiate(described)
    except Exception as error:  # whatever a part raises, what it was given is at fault
        text = " ".join(str(error).split())
        raise CheckpointError(f"its model can't be built as described: {text[:300]}") from error


def _as_data(part: Any, where: str) -> Any:
    """Return a part of a config as data that JSON can hold."""
    data = plain(part)
    for place, value in walk(data, where):
        if not (value is None or isinstance(value, dict | list | str | int | float)):
            raise CheckpointError(f"{place} is a {type(value).__qualname__}, not a number or text")
    return data


def _check_target(name: Any, where: str) -> None:
    """Refuse everything but parts that are defined where their name says.

    A name that leads through a module to what that has imported, such as `os.system`, is none.

    Raises:
        CheckpointError: it may not be built, or is not installed.
    """
    if isinstance(name, str) and name in _OTHERS:
        return
    refusal = f"{where} names {shorten(name)}, which is none of the parts that it may be made of"
    if not isinstance(name, str):
        raise CheckpointError(refusal)
    module_name, _, part = name.rpartition(".")
    if not _OURS.fullmatch(module_name) or part.startswith("_"):
        raise CheckpointError(refusal)
    try:
        found = vars(import_module(module_name)).get(part)
    except ImportError as error:
        raise CheckpointError(f"{refusal}, or not installed ({error})") from error
    is_part = inspect.isclass(found) or (inspect.isfunction(found) and part.startswith("build_"))
    if not is_part or found.__module__ != module_name:
        raise CheckpointError(refusal)
