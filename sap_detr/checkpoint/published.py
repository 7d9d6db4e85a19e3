"""Parameter names of published checkpoints, as tables that are read in both directions.

A method is a `NameMap`: pairs of name templates, published on the left and ours on the right.
Another method is another table, given to `register_name_map`; nothing else needs to know about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch

from .safe_load import CheckpointError

__all__ = [
    "COCO_CATEGORY_IDS",
    "DETR",
    "NAME_MAPS",
    "SAP_DETR",
    "UNUSED_CLASS_BIAS",
    "NameMap",
    "backbone_pairs",
    "coco_class_names",
    "detect_format",
    "expand_class_rows",
    "model_state",
    "register_name_map",
    "select_class_rows",
    "to_ours",
    "to_published",
]

Value = TypeVar("Value")
Pairs = tuple[tuple[str, str], ...]

_FIELDS = {
    **dict.fromkeys("ijk", r"\d+"),
    "p": "weight|bias",
    "norm": "weight|bias|running_mean|running_var",
    "attention": r"in_proj_weight|in_proj_bias|out_proj\.weight|out_proj\.bias",
    "any": ".*",
}
"""What the fields of a template stand for: i, j, k are indices, the others ends of names."""


@dataclass(frozen=True)
class _Template:
    """A name with `{fields}`, which matches concrete names and renders them."""

    text: str

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pieces = re.split(r"\{(\w+)\}", self.text)
        return re.compile(
            "".join(
                f"(?P<{piece}>{_FIELDS[piece]})" if index % 2 else re.escape(piece)
                for index, piece in enumerate(pieces)
            )
        )

    @property
    def fields(self) -> set[str]:
        return set(self._pattern.groupindex)

    def match(self, name: str) -> dict[str, str] | None:
        found = self._pattern.fullmatch(name)
        return found and found.groupdict()

    def render(self, values: Mapping[str, str]) -> str:
        return self.text.format(**values)


@dataclass(frozen=True)
class NameMap:
    """How the parameters of one published form are called, there and here.

    Templates may hold `{i}`, `{j}`, `{k}` (indices), `{p}` (weight, bias), `{norm}` (the four
    vectors of a batch norm) and `{attention}` (the four tensors of `nn.MultiheadAttention`).

    Attributes:
        method: what the form is called on the command line and by `detect_format`.
        pairs: (published, ours) templates; both must have the same fields.
        aliases: (alias, published) templates of tensors that published files hold under a second
            name.
        dropped: published templates (also with `{any}`) of what has no place in our model and is
            left out.
        class_rows: our templates of the tensors whose first dimension counts classes.
        no_object_row: whether those tensors have one more row, after the classes, for "no object".
        backbone_only: the form is that of ImageNet weights, with no detector.
    """

    method: str
    pairs: Pairs
    aliases: Pairs = ()
    dropped: tuple[str, ...] = ()
    class_rows: tuple[str, ...] = ()
    no_object_row: bool = False
    backbone_only: bool = False
    _rules: tuple[tuple[_Template, _Template], ...] = field(init=False, repr=False, compare=False)
    _alias_rules: tuple[tuple[_Template, _Template], ...] = field(
        init=False, repr=False, compare=False
    )
    _dropped_rules: tuple[_Template, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for attribute, pairs in (("_rules", self.pairs), ("_alias_rules", self.aliases)):
            rules = tuple((_Template(left), _Template(right)) for left, right in pairs)
            for left, right in rules:
                if left.fields != right.fields:
                    raise ValueError(f"{left.text} and {right.text} don't have the same fields.")
            object.__setattr__(self, attribute, rules)
        object.__setattr__(self, "_dropped_rules", tuple(_Template(text) for text in self.dropped))

    def ours(self, name: str) -> str | None:
        """Our name of a published one (not of an alias), or None."""
        return _translate(name, self._rules)

    def published(self, name: str) -> str | None:
        """The published name of one of ours, or None."""
        return _translate(name, ((right, left) for left, right in self._rules))

    def canonical(self, alias: str) -> str | None:
        """The published name whose tensor is repeated under `alias`; None if it is no alias."""
        return _translate(alias, self._alias_rules)

    def is_dropped(self, name: str) -> bool:
        """Whether a published name is left out on purpose."""
        return any(rule.match(name) is not None for rule in self._dropped_rules)

    def knows(self, name: str) -> bool:
        """Whether a published name has a meaning in this form."""
        return self.is_dropped(name) or (self.canonical(name) or self.ours(name)) is not None

    def class_row_names(self, names: Iterable[str]) -> list[str]:
        """Those of our names whose first dimension counts classes."""
        rules = [_Template(text) for text in self.class_rows]
        return [name for name in names if any(rule.match(name) is not None for rule in rules)]

    def to_ours(self, state: Mapping[str, Value]) -> dict[str, Value]:
        """Rename published to ours; aliases are merged, `dropped` names left out.

        Raises:
            CheckpointError: names outside the tables (all are listed), or an alias that differs
                from its original.
        """
        self._check_names(name for name in state if not self.knows(name))
        renamed: dict[str, Value] = {}
        for name, value in state.items():
            if self.is_dropped(name):
                continue
            original = self.canonical(name)
            if original is not None and original in state:
                if not _equal(value, state[original]):
                    raise CheckpointError(
                        f"{name} and {original} should be the same tensor in a {self.method} "
                        "checkpoint, but differ."
                    )
                continue
            ours = self.ours(original or name)
            if ours is None:
                raise ValueError(
                    f"The table of {self.method} has an alias for {original}, which it doesn't "
                    "name."
                )
            renamed[ours] = value
        return renamed

    def to_published(self, state: Mapping[str, Value]) -> dict[str, Value]:
        """Rename ours to published, aliases included (the same tensor under both names).

        Raises:
            CheckpointError: names outside the table (all are listed).
        """
        self._check_names(name for name in state if self.published(name) is None)
        renamed = {self.published(name) or name: value for name, value in state.items()}
        for alias, original in self._alias_rules:
            for name in list(renamed):
                values = original.match(name)
                if values is not None:
                    renamed[alias.render(values)] = renamed[name]
        return renamed

    def _check_names(self, unknown: Iterable[str]) -> None:
        names = list(unknown)
        if names:
            raise CheckpointError(f"Not parameters of {self.method}: {_listing(names)}.")


def _translate(name: str, rules: Iterable[tuple[_Template, _Template]]) -> str | None:
    for source, target in rules:
        values = source.match(name)
        if values is not None:
            return target.render(values)
    return None


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)


def _listing(names: Sequence[str], limit: int = 20) -> str:
    shown = ", ".join(map(str, names[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def backbone_pairs(prefix: str = "backbone.0.body.") -> Pairs:
    """torchvision's ResNet names after `prefix`, and Detectron2's, which are ours."""
    pairs = [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.{norm}", "stem.conv1.norm.{norm}"),
    ]
    for layer in range(1, 5):
        theirs, ours = f"layer{layer}.{{i}}.", f"res{layer + 1}.{{i}}."
        pairs += [
            (theirs + "conv{k}.weight", ours + "conv{k}.weight"),
            (theirs + "bn{k}.{norm}", ours + "conv{k}.norm.{norm}"),
            (theirs + "downsample.0.weight", ours + "shortcut.weight"),
            (theirs + "downsample.1.{norm}", ours + "shortcut.norm.{norm}"),
        ]
    return tuple((prefix + theirs, "backbone." + ours) for theirs, ours in pairs)


def _detectron2_backbone_pairs(prefix: str) -> Pairs:
    return tuple((ours.replace("backbone.", prefix, 1), ours) for _, ours in backbone_pairs())


_DETR_TRANSFORMER: Pairs = (
    ("input_proj.{p}", "neck.projections.0.{p}"),
    (
        "transformer.encoder.layers.{i}.self_attn.{attention}",
        "encoder.layers.{i}.self_attn.{attention}",
    ),
    ("transformer.encoder.layers.{i}.linear{j}.{p}", "encoder.layers.{i}.ffn.linear{j}.{p}"),
    ("transformer.encoder.layers.{i}.norm{j}.{p}", "encoder.layers.{i}.norm{j}.{p}"),
    (
        "transformer.decoder.layers.{i}.self_attn.{attention}",
        "decoder.layers.{i}.self_attn.{attention}",
    ),
    (
        "transformer.decoder.layers.{i}.multihead_attn.{attention}",
        "decoder.layers.{i}.cross_attn.{attention}",
    ),
    ("transformer.decoder.layers.{i}.linear{j}.{p}", "decoder.layers.{i}.ffn.linear{j}.{p}"),
    ("transformer.decoder.layers.{i}.norm{j}.{p}", "decoder.layers.{i}.norm{j}.{p}"),
    ("transformer.decoder.norm.{p}", "decoder.norm.{p}"),
    ("query_embed.weight", "decoder.query_embed.weight"),
    ("class_embed.{p}", "decoder.class_head.{p}"),
    ("bbox_embed.layers.{i}.{p}", "decoder.box_head.layers.{i}.{p}"),
)
_DETR_CLASS_ROWS = ("decoder.class_head.{p}",)
_BATCH_COUNTERS = ("{any}.num_batches_tracked",)

DETR = NameMap(
    method="detr",
    pairs=backbone_pairs() + _DETR_TRANSFORMER,
    dropped=_BATCH_COUNTERS,
    class_rows=_DETR_CLASS_ROWS,
    no_object_row=True,
)

DETECTRON2_DETR = NameMap(
    method="detectron2_detr",
    pairs=(
        *_detectron2_backbone_pairs("detr.backbone.0.backbone."),
        *(("detr." + theirs, ours) for theirs, ours in _DETR_TRANSFORMER),
    ),
    dropped=(*_BATCH_COUNTERS, "criterion.{any}"),
    class_rows=_DETR_CLASS_ROWS,
    no_object_row=True,
)

_SAP_DETR_SELF_ATTENTION = {
    "sa_qcontent_proj": "query_content",
    "sa_point_qpos_proj": "query_positions.0",
    "sa_bbox_qpos_proj": "query_positions.1",
    "sa_kcontent_proj": "key_content",
    "sa_point_kpos_proj": "key_positions.0",
    "sa_bbox_kpos_proj": "key_positions.1",
    "sa_v_proj": "value",
    "self_attn.out_proj": "out_proj",
}
_SAP_DETR_CROSS_ATTENTION = {
    "ca_qcontent_proj": "query_content",
    "ca_qpos_sine_proj": "query_point_sine",
    "ca_bbox_qpos_sine_proj": "query_sides_sine",
    "ca_kcontent_proj": "key_content",
    "ca_kpos_proj": "key_position",
    "ca_v_proj": "value",
    "cross_attn.out_proj": "out_proj",
    "gaussian_proj.layers.{j}": "gaussian_head.layers.{j}",
}
_SAP_DETR_ATTENTION: Pairs = tuple(
    (
        f"transformer.decoder.layers.{{i}}.{theirs}.{{p}}",
        f"decoder.layers.{{i}}.{attention}.{ours}.{{p}}",
    )
    for attention, names in (
        ("self_attn", _SAP_DETR_SELF_ATTENTION),
        ("cross_attn", _SAP_DETR_CROSS_ATTENTION),
    )
    for theirs, ours in names.items()
)
_SAP_DETR_TRANSFORMER: Pairs = (
    ("input_proj.{p}", "neck.projections.0.{p}"),
    (
        "transformer.encoder.layers.{i}.self_attn.{attention}",
        "encoder.layers.{i}.self_attn.{attention}",
    ),
    (
        "transformer.encoder.query_scales.{i}.layers.{j}.{p}",
        "encoder.layers.{i}.position_scale.layers.{j}.{p}",
    ),
    *(
        pair
        for part in ("encoder", "decoder")
        for pair in (
            (
                f"transformer.{part}.layers.{{i}}.linear{{j}}.{{p}}",
                f"{part}.layers.{{i}}.ffn.linear{{j}}.{{p}}",
            ),
            (
                f"transformer.{part}.layers.{{i}}.norm{{j}}.{{p}}",
                f"{part}.layers.{{i}}.norm{{j}}.{{p}}",
            ),
        )
    ),
    *_SAP_DETR_ATTENTION,
    ("transformer.decoder.layers.0.ca_point_qpos_proj.{p}", "decoder.first_query_point.{p}"),
    ("transformer.decoder.layers.0.ca_bbox_qpos_proj.{p}", "decoder.first_query_sides.{p}"),
    ("transformer.decoder.query_scale.layers.{i}.{p}", "decoder.sine_scale.layers.{i}.{p}"),
    ("transformer.decoder.norm.{p}", "decoder.norm.{p}"),
    *(
        (f"transformer.point_transfer.{3 * i + j}.{{p}}", f"decoder.content_init.{part}.{i}.{{p}}")
        for i in range(3)
        for j, part in enumerate(("convs", "norms"))
    ),
    ("refpoint_embed.weight", "decoder.reference_points"),
    ("refbbox_embed.weight", "decoder.reference_sides"),
    ("ref_point_head.layers.{i}.{p}", "decoder.point_embed.layers.{i}.{p}"),
    ("ref_bbox_head.layers.{i}.{p}", "decoder.sides_embed.layers.{i}.{p}"),
    ("point_embed.{i}.layers.{j}.{p}", "decoder.point_heads.{i}.layers.{j}.{p}"),
    ("bbox_embed.{i}.layers.{j}.{p}", "decoder.sides_heads.{i}.layers.{j}.{p}"),
    ("class_embed.{i}.layers.{j}.{p}", "decoder.class_heads.{i}.layers.{j}.{p}"),
    ("obj_embed.{p}", "decoder.object_head.{p}"),
)

SAP_DETR = NameMap(
    method="sap_detr",
    pairs=backbone_pairs() + _SAP_DETR_TRANSFORMER,
    aliases=(
        *(
            (f"transformer.decoder.{name}", name)
            for name in (
                "ref_point_head.layers.{i}.{p}",
                "ref_bbox_head.layers.{i}.{p}",
                "point_embed.{i}.layers.{j}.{p}",
                "bbox_embed.{i}.layers.{j}.{p}",
            )
        ),
        # The second to the last layer share a class head.
        *(
            (f"class_embed.{layer}.layers.{{j}}.{{p}}", "class_embed.1.layers.{j}.{p}")
            for layer in range(2, 6)
        ),
    ),
    dropped=_BATCH_COUNTERS,
    class_rows=("decoder.class_heads.{i}.layers.2.{p}",),
)

TORCHVISION_RESNET = NameMap(
    method="torchvision_resnet",
    pairs=backbone_pairs(prefix=""),
    dropped=(*_BATCH_COUNTERS, "fc.{p}"),
    backbone_only=True,
)

DETECTRON2_RESNET = NameMap(
    method="detectron2_resnet",
    pairs=_detectron2_backbone_pairs(""),
    dropped=(*_BATCH_COUNTERS, "stem.fc.{p}", "linear.{p}"),
    backbone_only=True,
)

NAME_MAPS: dict[str, NameMap] = {}


def register_name_map(name_map: NameMap) -> NameMap:
    """Make a published form known to detection, loading and conversion.

    Raises:
        ValueError: another table has that name.
    """
    if NAME_MAPS.setdefault(name_map.method, name_map) != name_map or name_map.method == "ours":
        raise ValueError(f"A name map called {name_map.method!r} exists already.")
    return name_map


for _known in (DETR, DETECTRON2_DETR, SAP_DETR, TORCHVISION_RESNET, DETECTRON2_RESNET):
    register_name_map(_known)


def _name_map(method: str) -> NameMap:
    try:
        return NAME_MAPS[method]
    except KeyError:
        raise ValueError(
            f"Unknown method {method!r}; known: {', '.join(sorted(NAME_MAPS))}."
        ) from None


def to_ours(state: Mapping[str, Value], method: str) -> dict[str, Value]:
    """Rename a state dict of the published form `method` to our names; see `NameMap.to_ours`."""
    return _name_map(method).to_ours(state)


def to_published(state: Mapping[str, Value], method: str) -> dict[str, Value]:
    """Rename a state dict of ours to the published form `method`; see `NameMap.to_published`."""
    return _name_map(method).to_published(state)


def model_state(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint: under `model` or `state_dict`, or the checkpoint itself.

    Prefixes that DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`) add are
    removed.

    Raises:
        CheckpointError: there is no dict of tensors.
    """
    state: Any = checkpoint
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            state = checkpoint[key]
            break
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong or not state:
        found = f"{_listing(wrong, 5)} are no tensors" if wrong else "it is empty"
        raise CheckpointError(
            f"No state dict in the checkpoint: {found}. Expected {{'model': {{name: tensor}}}}."
        )
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def detect_format(state: Mapping[str, Any]) -> str:
    """Whose names a state dict has: "ours", or the `method` of a registered `NameMap`.

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
    if any("_branch2a_" in name for name in names):
        raise CheckpointError(
            "These are Caffe2 weights (BGR input, stride in the 1x1 convolution). The methods "
            "here need torchvision's ImageNet ResNets: torchvision's own file or Detectron2's "
            "ImageNetPretrained/torchvision/R-50.pkl."
        )
    if _has_our_names(names):
        return "ours"
    unknown = {
        method: [name for name in names if not name_map.knows(name)]
        for method, name_map in NAME_MAPS.items()
    }
    best = min(unknown, key=lambda method: len(unknown[method]), default=None)
    if best is None or len(unknown[best]) == len(names):
        raise CheckpointError(
            f"The names are those of no known checkpoint ({', '.join(['ours', *NAME_MAPS])}): "
            f"{_listing(names, 5)}."
        )
    if unknown[best]:
        raise CheckpointError(
            f"The names resemble {best} most, but these are not its own: {_listing(unknown[best])}."
        )
    return best


def _has_our_names(names: Sequence[str]) -> bool:
    ours = ("encoder.", "decoder.", "neck.", "backbone.stem.", "backbone.res")
    return any(name.startswith(ours) for name in names)


def _ranges(*bounds: tuple[int, int]) -> tuple[int, ...]:
    return tuple(index for first, last in bounds for index in range(first, last + 1))


COCO_CATEGORY_IDS: tuple[int, ...] = _ranges(
    (1, 11), (13, 25), (27, 28), (31, 44), (46, 65), (67, 67), (70, 70), (72, 82), (84, 90)
)
"""The 80 category ids that COCO uses, in the order of Detectron2's contiguous ids."""

UNUSED_CLASS_BIAS = -100.0
"""Logit given to classes that no one trained: probability 0 in float32, finite in float16."""


def coco_class_names(num_classes: int) -> list[str | None] | None:
    """COCO's class names of a model with 80 (contiguous) or 91 (row = category id) classes, else
    None.

    Rows of ids that COCO does not use have the name None.
    """
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    names: dict[int, str] = {
        entry["id"]: entry["name"] for entry in COCO_CATEGORIES if entry["isthing"]
    }
    rows = {80: COCO_CATEGORY_IDS, 91: range(91)}
    return [names.get(index) for index in rows[num_classes]] if num_classes in rows else None


def select_class_rows(
    state: Mapping[str, torch.Tensor],
    row_names: Iterable[str],
    ids: Sequence[int],
    keep_no_object: bool,
) -> dict[str, torch.Tensor]:
    """Keep the rows `ids`, in that order, of the tensors called `row_names`: 91 classes to 80, for
    example.

    Args:
        state: state dict; not changed.
        row_names: tensors whose first dimension is classes (and "no object", last).
        ids: rows to keep.
        keep_no_object: whether there is a "no object" row, which then stays last.

    Raises:
        CheckpointError: a tensor has fewer rows than `ids` refer to.
    """
    result = dict(state)
    for name in row_names:
        rows = state[name].shape[0]
        if max(ids) >= rows - keep_no_object:
            raise CheckpointError(f"{name} has {rows} rows: too few to select row {max(ids)}.")
        result[name] = state[name][[*ids, rows - 1] if keep_no_object else list(ids)]
    return result


def expand_class_rows(
    state: Mapping[str, torch.Tensor],
    row_names: Iterable[str],
    ids: Sequence[int],
    num_classes: int,
    keep_no_object: bool,
) -> dict[str, torch.Tensor]:
    """Put the rows of a contiguous model at the rows `ids` of `num_classes`: 80 classes to 91, for
    example.

    Rows of other ids can't be recovered. Their weights become 0 and their biases
    `UNUSED_CLASS_BIAS`, so that they are never detected.

    Raises:
        CheckpointError: a tensor does not have one row for each of `ids` (and "no object").
    """
    result = dict(state)
    for name in row_names:
        tensor = state[name]
        if tensor.shape[0] != len(ids) + keep_no_object:
            raise CheckpointError(
                f"{name} has {tensor.shape[0]} rows, but {len(ids) + keep_no_object} are needed "
                f"for {len(ids)} classes."
            )
        filler = UNUSED_CLASS_BIAS if tensor.dim() == 1 else 0.0
        expanded = tensor.new_full((num_classes + keep_no_object, *tensor.shape[1:]), filler)
        expanded[list(ids)] = tensor[: len(ids)]
        if keep_no_object:
            expanded[-1] = tensor[-1]
        result[name] = expanded
    return result
