"""Weights from a checkpoint of any known form into a model, with an account of what went where."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .published import NAME_MAPS, coco_class_names, detect_format, model_state
from .safe_load import CheckpointError, load_checkpoint_file

__all__ = ["ClassNames", "LoadReport", "load_weights", "unwrap_model"]

logger = logging.getLogger(__name__)

ClassNames = Sequence[str | None]
"""One name per class row, in order; None for a row that stands for no class."""


@dataclass
class LoadReport:
    """What became of every tensor. All names are ours, except those of `ignored`.

    Attributes:
        source: file, or a description of the state dict.
        format: what `detect_format` found.
        loaded: tensors taken from the checkpoint as a whole.
        partially_loaded: class-row tensors with some rows from the checkpoint, to (rows taken,
            rows).
        reinitialised: tensors that the checkpoint has but that keep the model's initial values.
        missing: tensors of the model that the checkpoint lacks; they keep their initial values.
        ignored: tensors of the checkpoint that the model has no use for.
        notes: sentences on the class rows, for a reader.
        backbone_only: the checkpoint is an ImageNet backbone, so the rest is missing as a matter of
            course.
    """

    source: str
    format: str
    loaded: list[str] = field(default_factory=list)
    partially_loaded: dict[str, tuple[int, int]] = field(default_factory=dict)
    reinitialised: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    backbone_only: bool = False

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model came from the checkpoint, as evaluation needs."""
        return not (self.partially_loaded or self.reinitialised or self.missing)

    @property
    def fills_backbone(self) -> bool:
        """Whether these are ImageNet weights and the model's backbone has got all it needs."""
        kept = [*self.reinitialised, *self.missing]
        return self.backbone_only and not any(name.startswith("backbone.") for name in kept)

    def require_complete(self) -> None:
        """For evaluation and export, where initial values give meaningless detections.

        Raises:
            CheckpointError: some tensor keeps (some of) its initial values.
        """
        if not self.complete:
            names = [*self.partially_loaded, *self.reinitialised, *self.missing]
            raise CheckpointError(
                f"{self.source} does not fill the whole model, whose results would be meaningless: "
                f"{len(names)} tensors are left at initial values, e.g. {', '.join(names[:3])}. "
                f"{self}"
            )

    def __str__(self) -> str:
        columns: dict[str, Iterable[str]] = {
            "loaded": self.loaded,
            "rows": self.partially_loaded,
            "re-initialised": self.reinitialised,
            "missing": self.missing,
            "ignored": self.ignored,
        }
        columns = {title: names for title, names in columns.items() if names}
        counts: dict[str, dict[str, int]] = {}
        for title, names in columns.items():
            for name in names:
                row = counts.setdefault(_module(name), {})
                row[title] = row.get(title, 0) + 1
        width = max(map(len, ["module", *counts]))
        lines = [f"Weights from {self.source} ({self.format} names), tensors per module:"]
        lines.append("  ".join(["module".ljust(width), *columns]))
        for module, row in sorted(counts.items()):
            cells = [str(row.get(title, "")).rjust(len(title)) for title in columns]
            lines.append("  ".join([module.ljust(width), *cells]))
        for name, (taken, rows) in self.partially_loaded.items():
            lines.append(f"{name}: {taken} of {rows} rows loaded, the others re-initialised")
        return "\n".join(lines + self.notes)


def _module(name: str) -> str:
    """The part of a name that the table shows: `decoder.layers`, `backbone.res2`."""
    return ".".join(name.split(".")[:-1][:2]) or name


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def load_weights(
    model: nn.Module,
    path_or_state: str | os.PathLike[str] | Mapping[str, Any],
    class_names: ClassNames | None = None,
    checkpoint_class_names: ClassNames | None = None,
    reinitialise: Sequence[str] = (),
    source: str | None = None,
) -> LoadReport:
    """Load weights of any form that `detect_format` knows, to start training or to evaluate.

    Class rows (the first dimension of the class head) are copied by class *name* where both sides'
    names are known: the classes may differ in number and order, and those that the checkpoint lacks
    keep the model's initial values. Where names are unknown, rows are copied if their number is the
    same and else keep their initial values. The "no object" row is always copied. Anything else
    must have the model's shape. Values are cast to the model's dtype.

    Args:
        model: model, also wrapped by DistributedDataParallel; its `num_classes` tells how many rows
            are classes.
        path_or_state: file, checkpoint or state dict.
        class_names: names of the model's classes, in order. By default unknown, but COCO's for a
            model of 80 or 91 classes that gets a published COCO checkpoint.
        checkpoint_class_names: names of the checkpoint's classes. By default those stored in it;
            COCO's for a checkpoint in published names with 80 or 91 classes.
        reinitialise: patterns (`decoder.query_embed.*`) of tensors that shall keep their initial
            values.
        source: what to call the checkpoint in messages, by default the file's path.

    Returns:
        The report, which is also logged.

    Raises:
        CheckpointError: unreadable file, unknown names, nothing in common with the model, or other
            shapes.
        ValueError: a list of names that doesn't fit the number of rows, or a pattern that matches
            nothing.
    """
    if isinstance(path_or_state, Mapping):
        source, checkpoint = source or "the given state dict", dict(path_or_state)
    else:
        source, checkpoint = source or str(Path(path_or_state)), load_checkpoint_file(path_or_state)
    model = unwrap_model(model)
    target = {
        name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)
    }
    _check_patterns(reinitialise, target)

    state = model_state(checkpoint)
    form = detect_format(state)
    report = LoadReport(source, form)
    if form != "ours":
        name_map = NAME_MAPS[form]
        report.backbone_only = name_map.backbone_only
        report.ignored += [name for name in state if name_map.is_dropped(name)]
        state = name_map.to_ours(state)
    if not state.keys() & target.keys():
        raise CheckpointError(
            f"{source} ({form} names) has nothing in common with the model. It has e.g. "
            f"{_some(state)}; the model has e.g. {_some(target)}."
        )
    _check_depth(source, state, target)
    surplus = [name for name in state if name not in target]
    report.ignored += surplus

    class_rows = _ClassRows.of(
        model, checkpoint, form, state, target, class_names, checkpoint_class_names
    )
    new_values: dict[str, torch.Tensor] = {}
    wrong_shapes = []
    for name, current in target.items():
        if name not in state:
            if not name.endswith("num_batches_tracked"):
                report.missing.append(name)
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in reinitialise):
            report.reinitialised.append(name)
        elif class_rows is not None and name in class_rows.names:
            value, taken = class_rows.merge(current, state[name])
            new_values[name] = value
            if taken == len(value):
                report.loaded.append(name)
            elif taken:
                report.partially_loaded[name] = (taken, len(value))
            else:
                report.reinitialised.append(name)
        elif state[name].shape != current.shape:
            wrong_shapes.append(f"{name}: {tuple(state[name].shape)}, model {tuple(current.shape)}")
        else:
            new_values[name] = state[name]
            report.loaded.append(name)
    if wrong_shapes:
        raise CheckpointError(
            f"{source} has tensors of other shapes than the model: {'; '.join(wrong_shapes[:8])}"
            f"{f' and {len(wrong_shapes) - 8} more' if len(wrong_shapes) > 8 else ''}. Is it for "
            "another configuration? Names given as `reinitialise` patterns keep the model's "
            "initial values."
        )
    _check_more_than_backbone(report, state, target)
    if class_rows is not None:
        report.notes.append(class_rows.note)
    model.load_state_dict(new_values, strict=False)
    as_expected = not surplus and (report.complete or report.fills_backbone)
    logger.log(logging.INFO if as_expected else logging.WARNING, "%s", report)
    return report


def _some(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3])


def _check_patterns(patterns: Sequence[str], names: Iterable[str]) -> None:
    names = list(names)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"reinitialise pattern {pattern!r} matches no tensor of the model.")


def _check_depth(source: str, state: Iterable[str], target: Iterable[str]) -> None:
    """ResNets of different depth have stages of equal shapes, of which one would fill the other in
    part."""
    found, needed = _blocks(state), _blocks(target)
    for stage in sorted(found.keys() & needed.keys()):
        if found[stage] != needed[stage]:
            raise CheckpointError(
                f"{source} has a ResNet of another depth: {stage} has {len(found[stage])} blocks, "
                f"in the model {len(needed[stage])}."
            )


def _blocks(names: Iterable[str]) -> dict[str, set[str]]:
    stages: dict[str, set[str]] = {}
    for name in names:
        found = re.match(r"backbone\.(res\d)\.(\d+)\.", name)
        if found:
            stages.setdefault(found[1], set()).add(found[2])
    return stages


def _check_more_than_backbone(
    report: LoadReport, state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]
) -> None:
    """A detector that shares only its backbone with the model is a mistake, not a start."""

    def beyond_backbone(names: Iterable[str]) -> list[str]:
        return [name for name in names if not name.startswith("backbone.")]

    taken = [*report.loaded, *report.partially_loaded, *report.reinitialised]
    if beyond_backbone(state) and beyond_backbone(target) and not beyond_backbone(taken):
        raise CheckpointError(
            f"{report.source} is a detector of another kind: only its backbone fits the model. It "
            f"has e.g. {_some(beyond_backbone(state))}; the model has e.g. "
            f"{_some(beyond_backbone(target))}. To start from its backbone alone, give a state "
            "dict of the backbone.* tensors."
        )


@dataclass
class _ClassRows:
    """Which rows of the checkpoint's class tensors go to which rows of the model's.

    Attributes:
        names: the tensors (ours).
        sources: for each class of the model the checkpoint's row, or None to keep the initial
            values.
        no_object: whether one more row, for "no object", follows the classes on both sides.
        note: a sentence for the report.
    """

    names: set[str]
    sources: list[int | None]
    no_object: bool
    note: str

    @classmethod
    def of(
        cls,
        model: nn.Module,
        checkpoint: Mapping[str, Any],
        form: str,
        state: Mapping[str, torch.Tensor],
        target: Mapping[str, torch.Tensor],
        model_names: ClassNames | None,
        checkpoint_names: ClassNames | None,
    ) -> _ClassRows | None:
        num_classes = getattr(model, "num_classes", None)
        if not isinstance(num_classes, int):
            return None
        names = {
            name for name_map in NAME_MAPS.values() for name in name_map.class_row_names(target)
        }
        # A table of another method may take for a class tensor what is none in this model.
        names = {
            name for name in names if name in state and len(target[name]) - num_classes in (0, 1)
        }
        if not names:
            return None
        name = min(names)
        no_object = len(target[name]) > num_classes
        rows = len(state[name]) - no_object

        checkpoint_names = checkpoint_names or checkpoint.get("class_names")
        if checkpoint_names is None and form != "ours":
            checkpoint_names = coco_class_names(rows)
            if model_names is None and checkpoint_names is not None:
                model_names = coco_class_names(num_classes)
        _check_count("class_names", model_names, num_classes, "the model")
        _check_count("checkpoint_class_names", checkpoint_names, rows, "the checkpoint")
        sources, note = _match_classes(model_names, num_classes, checkpoint_names, rows)
        return cls(names, sources, no_object, f"Classes: {note}")

    def merge(self, current: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The model's tensor with the checkpoint's rows in it, and how many rows those are."""
        if current.shape[1:] != new.shape[1:]:
            raise CheckpointError(
                f"The rows of the class head have shape {tuple(new.shape[1:])} in the checkpoint, "
                f"{tuple(current.shape[1:])} in the model. Is it for another configuration?"
            )
        pairs = [(row, source) for row, source in enumerate(self.sources) if source is not None]
        if self.no_object:
            pairs.append((len(current) - 1, len(new) - 1))
        merged = current.detach().clone()
        if pairs:
            rows, sources = map(list, zip(*pairs, strict=True))
            merged[rows] = new[sources].to(merged)
        return merged, len(pairs)


def _check_count(argument: str, names: ClassNames | None, rows: int, owner: str) -> None:
    if names is not None and len(names) != rows:
        raise ValueError(f"{argument} has {len(names)} names, but {owner} has {rows} classes.")


def _match_classes(
    model_names: ClassNames | None,
    num_classes: int,
    checkpoint_names: ClassNames | None,
    rows: int,
) -> tuple[list[int | None], str]:
    """For each of the model's classes the checkpoint's row, and a sentence about it."""
    if model_names is None or checkpoint_names is None:
        if num_classes == rows:
            return list(range(rows)), f"{rows} rows loaded in order, without comparing names."
        unknown = "the model's" if model_names is None else "the checkpoint's"
        return [None] * num_classes, (
            f"the checkpoint has {rows}, the model {num_classes}, and {unknown} class names are "
            "unknown: class rows re-initialised. Give class names to keep the rows of classes "
            "that both have."
        )
    by_name = {_key(name): row for row, name in enumerate(checkpoint_names) if name is not None}
    sources = [None if name is None else by_name.get(_key(name)) for name in model_names]
    # Rows without a class can be loaded as well where both sides have them at the same place.
    if list(map(_key, model_names)) == list(map(_key, checkpoint_names)):
        return list(range(rows)), f"{rows} rows loaded; the names are the same."
    new = [str(name) for name, source in zip(model_names, sources, strict=True) if source is None]
    note = f"{num_classes - len(new)} of {num_classes} rows loaded by name"
    return (
        sources,
        f"{note}; re-initialised: {', '.join(new[:10])}{', ...' if len(new) > 10 else ''}."
        if new
        else note,
    )


def _key(name: str | None) -> str | None:
    return name if name is None else name.strip().lower()
