"""Weights from a checkpoint of any known form into a model, with an account of what went where."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..text import listing
from .class_rows import ClassNames, RowMatch, coco_class_names, match_class_rows
from .name_map import NAME_MAPS, detect_format, is_our_name
from .safe_load import CheckpointError, load_checkpoint_file
from .weight_sets import SCORED, describe_weights, model_state

logger = logging.getLogger(__name__)

# Of batches, which batch norms count and nobody needs.
_COUNTER = "num_batches_tracked"


@dataclass
class LoadReport:
    """What became of every tensor. All names are ours, except those of `ignored`.

    Attributes:
        source: file, or a description of the state dict.
        format: what `detect_format` found.
        weights: which weights of the checkpoint were taken, in words.
        loaded: tensors taken from the checkpoint as a whole.
        partially_loaded: class-row tensors with some rows from the checkpoint, to (rows taken,
            rows).
        reinitialised: tensors that the checkpoint has but that keep the model's initial values.
        missing: tensors of the model that the checkpoint lacks; they keep their initial values.
        training_only: those of them that inference does not read.
        ignored: tensors of the checkpoint that the model has no use for.
        notes: sentences on the class rows, for a reader.
    """

    source: str
    format: str
    weights: str
    loaded: list[str] = field(default_factory=list)
    partially_loaded: dict[str, tuple[int, int]] = field(default_factory=dict)
    reinitialised: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    training_only: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """Which weights these are, in one line."""
        return f"Weights from {self.source} ({self.format} names): {self.weights}"

    @property
    def unfilled(self) -> list[str]:
        """Tensors of the model that keep initial values, or some of them."""
        return [*self.partially_loaded, *self.reinitialised, *self.missing]

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model came from the checkpoint, as evaluation needs."""
        return not self.unfilled

    def require_complete(self) -> None:
        """Raise if the model would give meaningless detections: for evaluation and export.

        Raises:
            CheckpointError: some tensor keeps (some of) its initial values.
        """
        if names := self.unfilled:
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
            "missing (training only)": self.training_only,
            "ignored": self.ignored,
        }
        counts = {title: Counter(map(_module, names)) for title, names in columns.items() if names}
        modules = sorted({module for count in counts.values() for module in count})
        rows = [
            [module, *(count[module] or None for count in counts.values())] for module in modules
        ]
        lines = [f"{self.headline}, tensors per module:"]
        lines.append(tabulate(rows, ["module", *counts], "plain"))
        for name, (taken, total) in self.partially_loaded.items():
            lines.append(f"{name}: {taken} of {total} rows loaded, the others re-initialised")
        return "\n".join(lines + self.notes)


def _module(name: str) -> str:
    """Return the part of a name that the report shows: `decoder.layers`, `backbone.res2`."""
    return ".".join(name.split(".")[:-1][:2]) or name


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel and torch.compile."""
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
    reinitialise: Sequence[str] = (),
    source: str | None = None,
    weights: str = SCORED,
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
        path_or_state: file, checkpoint or state dict. The names of its classes are those under
            `class_names`; COCO's for one in published names with 80 or 91 classes.
        class_names: names of the model's classes, in order. By default unknown, but COCO's for a
            model of 80 or 91 classes that gets a published COCO checkpoint.
        reinitialise: patterns (`decoder.query_embed.*`) of tensors that shall keep their initial
            values.
        source: what to call the checkpoint in messages, by default the file's path.
        weights: "scored", or "raw" for those of which a moving average was scored.

    Returns:
        The report, which is also logged.

    Raises:
        CheckpointError: a pattern that matches nothing, unreadable file, unknown names, nothing in
            common with the model, other shapes, class names that don't fit the number of rows, or
            values that are not finite.
    """
    if isinstance(path_or_state, Mapping):
        source, checkpoint = source or "the given state dict", dict(path_or_state)
    else:
        source, checkpoint = source or str(Path(path_or_state)), load_checkpoint_file(path_or_state)
    model = unwrap_model(model)
    target = {
        name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)
    }
    for pattern in reinitialise:
        if not fnmatch.filter(target, pattern):
            raise CheckpointError(
                f"reinitialise pattern {pattern!r} matches no tensor of the model, which has e.g. "
                f"{listing(sorted(target), 5)}"
            )

    given = state = model_state(checkpoint, weights)
    unused: list[str] = []
    # Of ImageNet weights the rest of a detector is missing as a matter of course.
    needed = ""
    if adopted := _of_backbone(model, given):
        form, state, needed = "the backbone's library's", adopted, "backbone."
        unused = [name for name in given if f"backbone.body.{name}" not in adopted]
    elif (form := detect_format(given)) != "ours":
        name_map = NAME_MAPS[form]
        needed = "backbone." if name_map.backbone_only else ""
        unused = [name for name in given if name_map.is_dropped(name)]
        state = name_map.to_ours(given)
    report = LoadReport(source, form, describe_weights(checkpoint, weights))
    _check_same_kind(report, state.keys(), target.keys())
    surplus = [name for name in state if name not in target]
    report.ignored = [name for name in unused if not name.endswith(_COUNTER)] + surplus

    rows: RowMatch | None = None
    num_classes = getattr(model, "num_classes", None)
    class_tensors = _class_tensors(state, target, num_classes)
    if class_tensors and num_classes is not None:
        name = class_tensors[0]
        found = len(state[name]) - (len(target[name]) - num_classes)
        stored = checkpoint.get("class_names")
        if not stored and form != "ours":
            stored = coco_class_names(found)
            if class_names is None and stored is not None:
                class_names = coco_class_names(num_classes)
        rows = match_class_rows(class_names, num_classes, stored or None, found)
        report.notes.append(f"Classes: {rows.note}")
    new_values: dict[str, torch.Tensor] = {}
    wrong_shapes = []
    for name, current in target.items():
        if name not in state:
            if any(known.is_training_only(name) for known in NAME_MAPS.values()):
                report.training_only.append(name)
            elif not name.endswith(_COUNTER):
                report.missing.append(name)
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in reinitialise):
            report.reinitialised.append(name)
        elif rows is not None and name in class_tensors:
            new_values[name], taken = rows.merge(current, state[name])
            if taken == len(current):
                report.loaded.append(name)
            elif taken:
                report.partially_loaded[name] = (taken, len(current))
            else:
                report.reinitialised.append(name)
        elif state[name].shape != current.shape:
            wrong_shapes.append(f"{name}: {tuple(state[name].shape)}, model {tuple(current.shape)}")
        else:
            new_values[name] = state[name]
            report.loaded.append(name)
    lacking = [name for name in report.missing if name.startswith("backbone.body.")]
    if needed and lacking:
        raise CheckpointError(
            f"{source} fits a part of the backbone only: it lacks {len(lacking)} tensors, e.g. "
            f"{listing(lacking, 3)}"
        )
    if wrong_shapes:
        raise CheckpointError(
            f"{source} has tensors of other shapes than the model: "
            f"{listing(wrong_shapes, 8, '; ')}. Is it for another configuration? To train from the "
            "rest of it, list these names in train.reinitialise (`reinitialise` of load_weights)"
        )
    bad = non_finite_names(new_values)
    if bad:
        raise CheckpointError(
            f"{source} has NaN or infinity in {len(bad)} tensors, e.g. {listing(bad, 3)}: the "
            "training that it comes from diverged. Take an earlier checkpoint"
        )
    model.load_state_dict(new_values, strict=False)
    is_expected = not surplus and not any(name.startswith(needed) for name in report.unfilled)
    logger.log(logging.INFO if is_expected else logging.WARNING, "%s", report)
    return report


@torch.no_grad()
def non_finite_names(state: Mapping[str, Any]) -> list[str]:
    """Return the names of the floating-point tensors that hold NaN or infinity."""
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    if not tensors:
        return []
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return [name for name, whole in zip(tensors, finite, strict=True) if not whole]


def _of_backbone(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights that are those of the backbone's library, by our names; {} for others."""
    backbone = getattr(model, "backbone", None)
    if backbone is None or not hasattr(backbone, "own_state") or any(map(is_our_name, state)):
        return {}
    return {f"backbone.{name}": x for name, x in backbone.own_state(state).items()}


def _class_tensors(
    state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor], num_classes: int | None
) -> list[str]:
    """Return the names that both sides have of tensors whose first dimension counts classes."""
    if not isinstance(num_classes, int):
        return []
    names = {name for known in NAME_MAPS.values() for name in known.class_row_names(target)}
    # A table of another method may take for a class tensor what is none in this model.
    return sorted(n for n in names if n in state and len(target[n]) - num_classes in (0, 1))


def _check_same_kind(report: LoadReport, state: Set[str], target: Set[str]) -> None:
    """Refuse a checkpoint of another model of which a part would fit by chance."""
    source = report.source
    if not state & target:
        raise CheckpointError(
            f"{source} ({report.format} names) has nothing in common with the model. It has e.g. "
            f"{listing(sorted(state), 3)}; the model has e.g. {listing(sorted(target), 3)}."
        )
    # ResNets of different depth have stages of equal shapes: one would fill the other in part.
    found, needed = _depths(state), _depths(target)
    for stage in sorted(found.keys() & needed.keys()):
        if found[stage] != needed[stage]:
            raise CheckpointError(
                f"{source} has a ResNet of another depth: {stage} has {found[stage]} blocks, in "
                f"the model {needed[stage]}."
            )
    # A detector that shares only its backbone with the model is a mistake, not a start.
    theirs, ours = _beyond_backbone(state), _beyond_backbone(target)
    if theirs and ours and not theirs & ours:
        raise CheckpointError(
            f"{source} is a detector of another kind: only its backbone fits the model. It has "
            f"e.g. {listing(sorted(theirs), 3)}; the model has e.g. {listing(sorted(ours), 3)}. To "
            "start from its backbone alone, give a state dict of the backbone.* tensors."
        )


def _beyond_backbone(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("backbone.")}


def _depths(names: Iterable[str]) -> Counter[str]:
    """Return the number of blocks of each stage of a ResNet."""
    found = (re.match(r"backbone\.(res\d)\.\d+\.", name) for name in names)
    blocks = {(match[1], match[0]) for match in found if match}
    return Counter(stage for stage, _ in blocks)
