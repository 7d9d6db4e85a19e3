"""Rows of the class head, the first dimension of its tensors: which row is which class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from ..text import listing
from .safe_load import CheckpointError

ClassNames = Sequence[str | None]
"""One name per class row, in order; None for a row that stands for no class."""

_COCO_THINGS: dict[int, str] = {
    entry["id"]: entry["name"] for entry in COCO_CATEGORIES if entry["isthing"]
}

COCO_CATEGORY_IDS: tuple[int, ...] = tuple(sorted(_COCO_THINGS))
"""The 80 category ids that COCO uses, in the order of Detectron2's contiguous ids."""

UNUSED_CLASS_BIAS = -100.0
"""Logit given to classes that no one trained: probability 0 in float32, finite in float16."""


def coco_class_names(num_classes: int) -> list[str | None] | None:
    """Return COCO's class names of a model with 80 or 91 classes, else None.

    Of 80 classes row i is the i-th id in use, of 91 it is id i. Rows of ids that COCO does not use
    have the name None.
    """
    rows = {80: COCO_CATEGORY_IDS, 91: range(91)}
    return [_COCO_THINGS.get(i) for i in rows[num_classes]] if num_classes in rows else None


@dataclass(frozen=True)
class RowMatch:
    """Which rows of one side's class tensors go to which rows of the other's.

    Attributes:
        sources: for each class of the target the row of the source, or None if it has none.
        rows: classes of the source.
        note: a sentence for the report.
    """

    sources: list[int | None]
    rows: int
    note: str

    def merge(self, target: Tensor, source: Tensor) -> tuple[Tensor, int]:
        """Return the target with the rows of the source in it, and how many rows those are.

        Args:
            target: tensor (classes, ...); rows without a source keep its values. Not changed.
            source: tensor (its classes, ...).

        On both sides one more row may follow those of the classes ("no object"; DINO's unused one).

        Raises:
            CheckpointError: the rows have other shapes or another number.
        """
        extra = len(target) - len(self.sources)
        if target.shape[1:] != source.shape[1:]:
            raise CheckpointError(
                f"The rows of the class head have shape {tuple(source.shape[1:])} in the "
                f"checkpoint, {tuple(target.shape[1:])} in the model. Is it for another "
                "configuration?"
            )
        if len(source) != self.rows + extra:
            raise CheckpointError(
                f"The class head has {len(source)} rows, but {self.rows + extra} are needed "
                f"for {self.rows} classes."
            )
        pairs = [(row, found) for row, found in enumerate(self.sources) if found is not None]
        if extra:
            pairs.append((len(target) - 1, len(source) - 1))
        merged = target.detach().clone()
        for row, found in pairs:
            merged[row] = source[found]
        return merged, len(pairs)


def match_class_rows(
    model_names: ClassNames | None,
    num_classes: int,
    checkpoint_names: ClassNames | None,
    rows: int,
) -> RowMatch:
    """Match classes by name where both sides' names are known, else by their number.

    Args:
        model_names: names of the model's `num_classes` classes, or None if they are unknown.
        num_classes: classes of the model.
        checkpoint_names: names of the checkpoint's `rows` classes, or None if they are unknown.
        rows: classes of the checkpoint.

    Raises:
        CheckpointError: a list of names that doesn't fit the number of classes.
    """
    for owner, names, count in (
        ("The model", model_names, num_classes),
        ("The checkpoint", checkpoint_names, rows),
    ):
        if names is not None and len(names) != count:
            raise CheckpointError(
                f"{owner} has {count} classes, but {len(names)} class names are given for them."
            )
    if model_names is None or checkpoint_names is None:
        if num_classes == rows:
            note = f"{rows} rows loaded in order, without comparing names."
            return RowMatch(list(range(rows)), rows, note)
        unknown = "the model's" if model_names is None else "the checkpoint's"
        return RowMatch(
            [None] * num_classes,
            rows,
            f"the checkpoint has {rows}, the model {num_classes}, and {unknown} class names are "
            "unknown: class rows re-initialised. Give class names to keep the rows of classes "
            "that both have.",
        )
    wanted, found = list(map(_key, model_names)), list(map(_key, checkpoint_names))
    # Rows without a class can be loaded as well where both sides have them at the same place.
    if wanted == found:
        return RowMatch(list(range(rows)), rows, f"{rows} rows loaded; the names are the same.")
    by_name = {name: row for row, name in enumerate(found) if name is not None}
    sources = [None if name is None else by_name.get(name) for name in wanted]
    new = [str(name) for name, row in zip(model_names, sources, strict=True) if row is None]
    note = f"{num_classes - len(new)} of {num_classes} rows loaded by name"
    if new:
        note += f"; re-initialised: {listing(new)}."
    return RowMatch(sources, rows, note)


def convert_class_rows(
    state: Mapping[str, Tensor], row_names: Iterable[str], match: RowMatch
) -> dict[str, Tensor]:
    """Give class tensors other rows: the 80 that are in use of 91, for example, or the way back.

    Rows without a source can't be recovered. Their weights become 0 and their biases
    `UNUSED_CLASS_BIAS`, so that they are never detected.

    Args:
        state: state dict; not changed.
        row_names: tensors whose first dimension is classes (and "no object", last, which stays).
        match: the rows to take, see `match_class_rows`.

    Raises:
        CheckpointError: a tensor has another number of rows than the match.
    """
    result = dict(state)
    for name in row_names:
        old = state[name]
        filler = UNUSED_CLASS_BIAS if old.dim() == 1 else 0.0
        rows = len(match.sources) + (len(old) == match.rows + 1)
        target = old.new_full((rows, *old.shape[1:]), filler)
        result[name], _ = match.merge(target, old)
    return result


def _key(name: str | None) -> str | None:
    return name if name is None else name.strip().lower()
