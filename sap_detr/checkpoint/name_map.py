"""Parameter names of published checkpoints: tables that are read in both directions.

A published form is a `NameMap`: pairs of name templates, published on the left and ours on the
right. The tables stand beside their methods, in modules called `..._name_map`, and are given to
`register_name_map` when these are imported; nothing else needs to know about them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..text import listing
from .safe_load import CheckpointError

NamePairs = tuple[tuple[str, str], ...]
"""Templates of a name on two sides."""
StackedNames = tuple[tuple[tuple[str, ...], str], ...]
"""Templates of several names on one side, of one on the other."""

_FIELDS = {
    **dict.fromkeys("ijk", r"\d+"),
    "p": "weight|bias",
    "norm": "weight|bias|running_mean|running_var",
    "attention": r"in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias",
    "deformable": (
        r"(?:sampling_offsets|attention_weights|value_proj|output_proj)\.(?:weight|bias)"
    ),
    "any": ".*",
}
"""What the fields of a template stand for: i, j, k are indices, the others ends of names."""

_OUR_PREFIXES = (
    *("encoder.", "decoder.", "neck."),
    *("backbone.stem.", "backbone.res", "backbone.body.", "backbone.bottom_up."),
)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    # Text and names of fields take turns.
    pieces = re.split(r"\{(\w+)\}", template)
    pieces[::2] = map(re.escape, pieces[::2])
    pieces[1::2] = [f"(?P<{name}>{_FIELDS[name]})" for name in pieces[1::2]]
    return re.compile("".join(pieces))


def _matches_any(name: str, templates: Iterable[str]) -> bool:
    return any(_pattern(template).fullmatch(name) for template in templates)


def _translations(name: str, pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the names on the right of the pairs whose left template it matches."""
    for source, target in pairs:
        if found := _pattern(source).fullmatch(name):
            yield target.format(**found.groupdict())


@dataclass(frozen=True)
class NameMap:
    """How the parameters of one published form are called, there and here.

    Templates may hold `{i}`, `{j}`, `{k}` (indices), `{p}` (weight, bias), `{norm}` (the four
    vectors of a batch norm), `{attention}` (the four tensors of `nn.MultiheadAttention`) and
    `{deformable}` (the eight of a deformable attention).

    Attributes:
        method: what the form is called on the command line and by `detect_format`.
        pairs: (published, ours) templates; both must have the same fields.
        stacked: (published, ours) templates of several tensors that are, one after another along
            the first dimension and of equal size, one tensor of ours.
        aliases: (alias, published) templates of tensors that published files hold under a second
            name.
        dropped: published templates (also with `{any}`) of what has no place in our model and is
            left out. Counters of batches always are.
        class_rows: our templates of the tensors whose first dimension counts classes.
        no_object_row: whether those tensors have one more row, after the classes, for "no object".
        backbone_only: the form is that of ImageNet weights, with no detector.
        training_only: our templates of tensors that a published file lacks and inference does not
            read.

    Raises:
        ValueError: the templates of a pair have different fields.
    """

    method: str
    pairs: NamePairs
    stacked: StackedNames = ()
    aliases: NamePairs = ()
    dropped: tuple[str, ...] = ()
    class_rows: tuple[str, ...] = ()
    no_object_row: bool = False
    backbone_only: bool = False
    training_only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for left, right in (*self.pairs, *self._parts, *self.aliases):
            if _pattern(left).groupindex.keys() != _pattern(right).groupindex.keys():
                raise ValueError(f"{left} and {right} don't have the same fields.")

    def ours(self, name: str) -> str | None:
        """Return our name of a published one or of an alias, or None."""
        name = next(_translations(name, self.aliases), name)
        return next(_translations(name, (*self.pairs, *self._parts)), None)

    def published(self, name: str) -> str | None:
        """Return the published name of one of ours, the first if it is several, or None."""
        return next(iter(self._all_published(name)), None)

    @property
    def _parts(self) -> NamePairs:
        return tuple((part, ours) for parts, ours in self.stacked for part in parts)

    def _all_published(self, name: str) -> list[str]:
        """Return the published name of one of ours, or those of its parts; [] if it has none."""
        whole = _translations(name, ((ours, theirs) for theirs, ours in self.pairs))
        parts = _translations(name, ((ours, theirs) for theirs, ours in self._parts))
        return list(itertools.islice(whole, 1)) or list(parts)

    def is_dropped(self, name: str) -> bool:
        """Return whether a published name is left out on purpose."""
        return _matches_any(name, ("{any}.num_batches_tracked", *self.dropped))

    def knows(self, name: str) -> bool:
        """Return whether a published name has a meaning in this form."""
        return self.is_dropped(name) or self.ours(name) is not None

    def is_training_only(self, name: str) -> bool:
        """Return whether a tensor of ours has no published name and no use in inference."""
        return _matches_any(name, self.training_only)

    def class_row_names(self, names: Iterable[str]) -> list[str]:
        """Return those of our names whose first dimension counts classes."""
        return [name for name in names if _matches_any(name, self.class_rows)]

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename published to ours; aliases are merged, parts stacked, dropped names left out.

        Raises:
            CheckpointError: names outside the tables (all are listed), an alias that differs from
                its original, or parts of which some are missing or of other shapes.
        """
        self._check_names(name for name in state if not self.knows(name))
        renamed: dict[str, Tensor] = {}
        for name, value in state.items():
            original = next(_translations(name, self.aliases), "")
            same = state.get(original, value)
            if value is not same and not torch.equal(value, same):
                raise CheckpointError(
                    f"{name} and {original} should be the same tensor in a {self.method} "
                    "checkpoint, but differ."
                )
            ours = None if self.is_dropped(name) else self.ours(name)
            if ours is not None:
                renamed.setdefault(ours, value)
        for ours in renamed:
            if len(parts := self._all_published(ours)) > 1:
                renamed[ours] = self._stack(state, parts)
        return renamed

    def _stack(self, state: Mapping[str, Tensor], parts: Sequence[str]) -> Tensor:
        absent = [name for name in parts if name not in state]
        if absent:
            raise CheckpointError(f"{listing(absent)} is missing beside {parts[0]}.")
        if len({state[name].shape for name in parts}) > 1:
            raise CheckpointError(f"{listing(parts)} should have the same shape, but differ.")
        return torch.cat([state[name] for name in parts])

    def to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename ours to published, aliases included (the same tensor under both names).

        Raises:
            CheckpointError: names outside the table (all are listed).
        """
        published = {name: self._all_published(name) for name in state}
        self._check_names(name for name, found in published.items() if not found)
        renamed: dict[str, Tensor] = {}
        for name, value in state.items():
            count = len(published[name])
            parts = value.chunk(count) if count > 1 else [value]
            renamed |= zip(published[name], parts, strict=True)
        for alias, original in self.aliases:
            for name in list(renamed):
                for again in _translations(name, [(original, alias)]):
                    renamed[again] = renamed[name]
        return renamed

    def _check_names(self, unknown: Iterable[str]) -> None:
        names = list(unknown)
        if names:
            raise CheckpointError(f"Not parameters of {self.method}: {listing(names, 20)}.")


NAME_MAPS: dict[str, NameMap] = {}
"""The published forms that are known, by `method`."""


def register_name_map(name_map: NameMap) -> NameMap:
    """Make a published form known to detection, loading and conversion.

    Raises:
        ValueError: another table has that name.
    """
    if NAME_MAPS.setdefault(name_map.method, name_map) != name_map or name_map.method == "ours":
        raise ValueError(f"A name map called {name_map.method!r} exists already.")
    return name_map


def is_our_name(name: str) -> bool:
    """Say whether only detectors of this package have tensors of such a name."""
    return name.startswith(_OUR_PREFIXES)


def detect_format(state: Mapping[str, Any]) -> str:
    """Return whose names a state dict has: "ours", or the `method` of a registered `NameMap`.

    Detectron2's ImageNet ResNets have the same names whether they come from torchvision (RGB,
    stride in the 3x3 convolution: right) or from the older Caffe training (BGR, stride in the first
    1x1: wrong for these methods). The latter is recognised only in its original Caffe2 names.

    Raises:
        CheckpointError: no table explains the names; the closest and what it lacks are named.
    """
    names = list(state)
    if any(name.startswith(("mask_head.", "bbox_attention.")) for name in names):
        raise CheckpointError(
            "This is a panoptic checkpoint (it has mask_head.* or bbox_attention.*), which has no "
            "counterpart here; only detection checkpoints can be used."
        )
    if any(re.match(r"(transformer\.decoder\.)?class_embed\.6\.", name) for name in names):
        raise CheckpointError(
            "This is a checkpoint of detrex's DINO, which is another network than the authors': it "
            "has seven pairs of heads, one for each layer and the first stage, where DINO has two. "
            "Only checkpoints of the authors' repository can be used."
        )
    if any("_branch2a_" in name for name in names):
        raise CheckpointError(
            "These are Caffe2 weights (BGR input, stride in the 1x1 convolution). The methods "
            "here need torchvision's ImageNet ResNets: torchvision's own file or Detectron2's "
            "ImageNetPretrained/torchvision/R-50.pkl."
        )
    if any(map(is_our_name, names)):
        return "ours"
    unknown = {
        method: [name for name in names if not name_map.knows(name)]
        for method, name_map in NAME_MAPS.items()
    }
    best = min(unknown, key=lambda method: len(unknown[method]), default=None)
    if best is None or len(unknown[best]) == len(names):
        raise CheckpointError(
            f"The names are those of no known checkpoint ({', '.join(['ours', *NAME_MAPS])}): "
            f"{listing(names, 5)}."
        )
    if unknown[best]:
        raise CheckpointError(
            f"The names resemble {best} most, but these are not its own: "
            f"{listing(unknown[best], 20)}."
        )
    return best
