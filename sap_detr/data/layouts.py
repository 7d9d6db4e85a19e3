"""Finds out in which format a folder holds a data set, and where its splits lie."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from ..text import listing
from . import coco_schema, voc, yolo
from .errors import DatasetError
from .records import SplitFiles
from .val_share import Part

# Each finds splits (``find_split``) and folders without any (``find_whole``), and says how.
_FORMATS = {"coco": coco_schema, "yolo": yolo, "voc": voc}


def find_splits(
    folder: str | os.PathLike[str],
    train: str | None = None,
    val: str | None = None,
    format: str | None = None,
    val_share: float | None = None,
) -> dict[str, SplitFiles]:
    """Return where ``train`` and, if there is one, ``val`` of a folder lie.

    These layouts are known, for each split:

    * COCO: ``train.json`` and ``train/``; ``annotations/instances_train2017.json`` and
      ``train2017/`` or ``images/train2017/``; ``annotations/instances_train.json`` and ``train/``
      or ``images/train/``, also without ``instances_``; ``train/_annotations.coco.json`` next to
      the images (Roboflow); without splits one json file and its images
    * YOLO: what ``data.yaml`` says; ``images/train/`` and ``labels/train/``; ``train/images/`` and
      ``train/labels/``; without splits ``images/`` and ``labels/``
    * Pascal VOC: ``Annotations/`` and ``JPEGImages/``, with ``ImageSets/Main/train.txt`` or without
      splits; ``train/`` with images and their XML files

    Args:
        folder: the data set.
        train: what the training split is called in the folder; by default ``train``. Without one,
            a folder that has no splits is trained on as a whole.
        val: what the validation split is called; by default ``val``, or else ``valid``. If it is
            not given and neither is there, there is only the training split.
        format: coco, yolo or voc, where a folder holds several.
        val_share: share of the images to evaluate with, of a folder without a validation split; see
            :class:`~sap_detr.data.val_share.Part`.

    Raises:
        FileNotFoundError: if the folder or a split is not found; it lists what was looked for.
        DatasetError: if the folder holds several formats, or one in which files are missing; if
            ``val_share`` is not between 0 and 1, or there is a validation split already.
    """
    root = absolute(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}, the folder of the data set, is missing")
    if format is not None and format not in _FORMATS:
        raise DatasetError(f"format {format!r}: one of {', '.join(_FORMATS)} is expected")
    formats = {k: v for k, v in _FORMATS.items() if format in (None, k)}
    names = [train or "train"]
    found = {key: _first(root, each, names) for key, each in formats.items()}
    if train is None and not any(found.values()):
        found = {key: each.find_whole(root) for key, each in formats.items()}
    known = {key: split for key, split in found.items() if split is not None}
    if len(known) > 1:
        seen = "; ".join(f"{s.format}: {s.path}" for s in known.values())
        raise DatasetError(
            f"{root} holds a training split in several formats ({seen}): say which is meant with "
            f"dataset.format={' or '.join(known)} (sap-detr check: --format)"
        )
    if not known:
        raise FileNotFoundError(_not_found(root, names, formats.values()))
    ((key, training),) = known.items()
    splits: dict[str, SplitFiles] = {"train": training}
    names = [val] if val else ["val", "valid"]
    evaluated = _first(root, _FORMATS[key], names)
    if val_share is not None:
        if evaluated is not None or val is not None:
            where = evaluated.path if evaluated is not None else val
            raise DatasetError(
                f"{root} has a validation split ({where}): take dataset.val_share={val_share} away"
            )
        return {"train": Part(training, val_share, False), "val": Part(training, val_share, True)}
    if evaluated is not None:
        splits["val"] = evaluated
    elif val:
        raise FileNotFoundError(_not_found(root, names, [_FORMATS[key]]))
    return splits


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, not resolved: a link to the data may be moved to another disk."""
    return Path(path).expanduser().absolute()


def _first(root: Path, format: ModuleType, names: Iterable[str]) -> SplitFiles | None:
    """Return a split that may have one of several names."""
    return next(filter(None, (format.find_split(root, name) for name in names)), None)


def _not_found(root: Path, names: list[str], formats: Iterable[ModuleType]) -> str:
    tried = [
        text.format(split=name) for each in formats for name in names for text in each.LOOKED_FOR
    ]
    tried += [text for each in formats for text in each.LOOKED_FOR_WHOLE]
    looked = "\n".join(f"  - {text}" for text in tried)
    found = listing(sorted(p.name + "/" * p.is_dir() for p in root.iterdir()), 20) or "nothing"
    return (
        f"{root}: no {' or '.join(names)} split in a known format. Looked for\n{looked}\nThe "
        f"folder holds: {found}. Rename the files, name the splits with dataset.train=NAME and "
        "dataset.val=NAME, or register them one by one with register_coco(name, json_file, "
        "image_root)."
    )
