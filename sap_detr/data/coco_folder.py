"""Registers data sets in COCO format with Detectron2."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..text import listing
from .coco_schema import CocoAnnotations, read_coco
from .errors import DatasetError
from .evaluation_file import repair, write_repaired
from .registry import registered_categories
from .standard_dict import StandardDict

# (annotation file, image folder) relative to the data set's folder, in order of preference.
_LAYOUTS = (
    ("{split}.json", "{split}"),
    ("annotations/instances_{split}2017.json", "{split}2017"),
    ("annotations/instances_{split}2017.json", "images/{split}2017"),
    ("annotations/instances_{split}.json", "{split}"),
    ("annotations/instances_{split}.json", "images/{split}"),
    ("annotations/{split}.json", "{split}"),
    ("annotations/{split}.json", "images/{split}"),
    ("{split}/_annotations.coco.json", "{split}"),
)


class RegisteredAnnotations:
    """Annotations of a data set in Detectron2's catalog, which calls this to load them.

    What registration read serves the inspection and the first loading as well, unless the file has
    changed since.

    Args:
        json_file: annotations.
        image_root: folder of the images.
        training: as of :func:`read_coco`.
        categories: as of :func:`read_coco`.
    """

    def __init__(
        self,
        json_file: str,
        image_root: str,
        training: bool,
        categories: Mapping[int, str] | None,
    ) -> None:
        self.json_file, self.image_root = json_file, image_root
        self._training, self._categories = training, categories
        self._kept: tuple[tuple[int, int], CocoAnnotations] | None = None

    def look(self, training: bool | None = None) -> CocoAnnotations:
        """Return the annotations, to be looked at only: they are kept.

        Args:
            training: None for what they were registered for; with the other they are read anew.

        Raises:
            FileNotFoundError, DatasetError: as :func:`read_coco`.
        """
        if training not in (None, self._training):
            return self._read(bool(training))
        try:
            status = os.stat(self.json_file)
            stamp = (status.st_size, status.st_mtime_ns)
        except OSError:
            stamp = (-1, -1)
        if self._kept is None or self._kept[0] != stamp:
            self._kept = None
            self._kept = stamp, self._read(self._training)
        return self._kept[1]

    def _read(self, training: bool) -> CocoAnnotations:
        return read_coco(
            self.json_file, self.image_root, training=training, categories=self._categories
        )

    def forget_repair(self) -> None:
        """Keep no longer what only the repair needs."""
        if self._kept is not None:
            self._kept = self._kept[0], replace(self._kept[1], to_repair=None)

    def __call__(self) -> list[StandardDict]:
        """Return the standard dicts, to be changed at will: they are kept no longer.

        Raises:
            FileNotFoundError, DatasetError: also if there is an error among the findings.
        """
        annotations = self.look()
        annotations.findings.raise_errors()
        self._kept = None
        return annotations.dicts


def register_coco(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    require_annotations: bool = True,
    classes_of: str | None = None,
) -> str:
    """Check annotations in COCO format and register them with Detectron2.

    To be called in every process. Registering the same files under the same name again does
    nothing. Class indices follow ascending category ids, whatever these are. The metadata gets
    ``thing_classes``, ``thing_dataset_id_to_contiguous_id``, ``json_file``, ``image_root``,
    ``evaluator_type`` and ``source_files`` (``json_file`` and ``image_root`` as they were given);
    ``json_file`` is a repaired copy in the cache folder if COCO evaluation could not use the
    original (see :mod:`sap_detr.data.evaluation_file`).

    Args:
        name: name for the catalog.
        json_file: annotations.
        image_root: folder that the annotations' file names are relative to.
        require_annotations: False for images without known objects, which can be used for inference
            only.
        classes_of: the registered data set that is trained on. Its class indices and category ids
            hold for this one too, and classes go by their names. One that lacks here is one without
            examples; annotations of one that lacks there are an error.

    Returns:
        The name.

    Raises:
        FileNotFoundError: if the file or the folder is missing.
        DatasetError: if the annotations can't be used, or the name stands for another data set.
    """
    source = _absolute(json_file), _absolute(image_root)
    if name in DatasetCatalog.list():
        others = MetadataCatalog.get(name).get("source_files", None)
        if others == source:
            return name
        json_file, image_root = others or ("something else", "not by this function")
        raise DatasetError(
            f"the data set name {name!r} is taken by {json_file} ({image_root}), it can't stand "
            f"for {source[0]} ({source[1]}) too: choose another name, and use it in the config's "
            "data loaders as well"
        )
    if not Path(source[1]).is_dir():
        raise FileNotFoundError(
            f"{source[1]}, the folder of the images of data set {name!r}, is missing"
        )

    categories = None if classes_of is None else registered_categories(classes_of)
    registered = RegisteredAnnotations(*source, require_annotations, categories)
    annotations = registered.look()
    annotations.findings.raise_errors()
    annotations.findings.log()
    evaluation_file = source[0]
    if annotations.to_repair is not None:
        evaluation_file = write_repaired(repair(annotations.to_repair), source[0])
        registered.forget_repair()
    DatasetCatalog.register(name, registered)
    MetadataCatalog.get(name).set(
        thing_classes=annotations.class_names,
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(annotations.categories)},
        json_file=evaluation_file,
        image_root=source[1],
        evaluator_type="coco",
        source_files=source,
    )
    return name


def register_coco_folder(
    name: str,
    folder: str | os.PathLike[str],
    train: str | None = None,
    val: str | None = None,
) -> list[str]:
    """Find the splits of a folder, and register them as ``{name}_train`` and ``{name}_val``.

    Classes go by their names: see ``classes_of`` of :func:`register_coco`.

    These layouts are known, for each split:

    * ``train.json`` and ``train/``
    * ``annotations/instances_train2017.json`` and ``train2017/`` or ``images/train2017/``
    * ``annotations/instances_train.json`` and ``train/`` or ``images/train/``; also without
      ``instances_``
    * ``train/_annotations.coco.json`` next to the images (Roboflow)

    For other layouts call ``register_coco`` for each split.

    Args:
        name: the names in the catalog start with it.
        folder: the data set.
        train: what the training split is called in the folder; by default ``train``.
        val: what the validation split is called; by default ``val``, or else ``valid``. If it is
            not given and neither is there, only the training split is registered.

    Returns:
        The registered names.

    Raises:
        FileNotFoundError: if a split is not found; it lists what was looked for.
        DatasetError: as ``register_coco`` does.
    """
    splits = find_coco_splits(folder, train, val)
    trained = register_coco(f"{name}_train", *splits.pop("train"))
    names = [trained] + [
        register_coco(f"{name}_{split}", *source, require_annotations=False, classes_of=trained)
        for split, source in splits.items()
    ]
    return names


def find_coco_splits(
    folder: str | os.PathLike[str], train: str | None = None, val: str | None = None
) -> dict[str, tuple[Path, Path]]:
    """Return annotation file and image folder of ``train`` and, where there is one, of ``val``.

    The arguments are those of ``register_coco_folder``.

    Raises:
        FileNotFoundError: if the folder or a split is not found; it lists what was looked for.
    """
    root = Path(_absolute(folder))
    if not root.is_dir():
        raise FileNotFoundError(f"{root}, the folder of the data set, is missing")
    splits = {"train": _find_split(root, [train or "train"])}
    try:
        splits["val"] = _find_split(root, [val] if val else ["val", "valid"])
    except FileNotFoundError:
        if val:
            raise
    return splits


def _absolute(path: str | os.PathLike[str]) -> str:
    # Not resolved: a symbolic link to the data may be moved to another disk.
    return str(Path(path).expanduser().absolute())


def _find_split(root: Path, split_names: list[str]) -> tuple[Path, Path]:
    """Return annotation file and image folder of a split, which may have one of several names."""
    tried = []
    for split in split_names:
        for json_pattern, images_pattern in _LAYOUTS:
            json_name, images_name = (p.format(split=split) for p in (json_pattern, images_pattern))
            if (root / json_name).is_file() and (root / images_name).is_dir():
                return root / json_name, root / images_name
            tried.append(f"{json_name} with {images_name}/")
    found = listing(sorted(p.name + "/" * p.is_dir() for p in root.iterdir()), 20) or "nothing"
    looked = "\n".join(f"  - {t}" for t in tried)
    raise FileNotFoundError(
        f"{root}: no {' or '.join(split_names)} split in COCO format. Looked for\n{looked}\nThe "
        f"folder holds: {found}. Rename the files, or register them one by one with "
        "register_coco(name, json_file, image_root)."
    )
