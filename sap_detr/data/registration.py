"""Registers data sets with Detectron2."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from detectron2.data import DatasetCatalog, MetadataCatalog

from .coco_schema import CocoAnnotations, CocoFile, read_split
from .errors import DatasetError
from .evaluation_file import write_copy
from .kept_readings import KeptAnnotations, stamp
from .layouts import absolute, find_splits
from .record_arrays import RecordArrays
from .records import SplitFiles
from .registry import registered_categories
from .standard_dict import StandardDict


class RegisteredAnnotations:
    """Annotations of a data set in Detectron2's catalog, which calls this to load them.

    What registration read serves the inspection and all loading as well, unless the file (of
    formats with many files: their folder) has changed since. Of COCO's format it serves the next
    start, too.

    Args:
        files: the split.
        training: as of :func:`read_split`.
        categories: as of :func:`read_split`.
    """

    def __init__(
        self, files: SplitFiles, training: bool, categories: Mapping[int, str] | None
    ) -> None:
        self.files = files
        self._training, self._categories = training, categories
        self._kept: tuple[tuple[int, int], CocoAnnotations] | None = None

    def look(self, training: bool | None = None) -> CocoAnnotations:
        """Return the annotations, to be looked at only: they are kept.

        Args:
            training: None for what they were registered for; with the other they are read anew.

        Raises:
            FileNotFoundError, DatasetError: as :func:`read_split`.
        """
        if training not in (None, self._training):
            return read_split(self.files, training=bool(training), categories=self._categories)
        state = stamp(self.files.path)
        if self._kept is None or self._kept[0] != state:
            self._kept = None
            self._kept = state, self._read(state)
        return self._kept[1]

    def _read(self, state: tuple[int, int]) -> CocoAnnotations:
        on_disk = KeptAnnotations(self.files, self._training, self._categories)
        read = on_disk.load(state)
        if read is None:
            read = read_split(self.files, training=self._training, categories=self._categories)
            if read.for_evaluation is not None:
                file = write_copy(read.for_evaluation, str(self.files.path))
                read = replace(read, for_evaluation=None, evaluation_file=file)
            if stamp(self.files.path) == state:
                on_disk.save(state, read)
        return read

    def records(self) -> RecordArrays:
        """Return the standard dicts, to be looked at only.

        Raises:
            FileNotFoundError, DatasetError: also if there is an error among the findings.
        """
        annotations = self.look()
        annotations.findings.raise_errors()
        return annotations.records

    def __call__(self) -> list[StandardDict]:
        """Return the standard dicts, to be changed at will.

        Raises:
            FileNotFoundError, DatasetError: as ``records``.
        """
        return list(self.records())


def register_coco(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    require_annotations: bool = True,
    classes_of: str | None = None,
) -> str:
    """Check annotations in COCO format and register them: see :func:`register_split`.

    Args:
        name: name for the catalog.
        json_file: annotations.
        image_root: folder that the annotations' file names are relative to.
        require_annotations, classes_of: as of :func:`register_split`.

    Returns:
        The name.

    Raises:
        FileNotFoundError, DatasetError: as :func:`register_split`.
    """
    return register_split(
        name,
        CocoFile(absolute(json_file), absolute(image_root)),
        require_annotations=require_annotations,
        classes_of=classes_of,
    )


def register_split(
    name: str,
    files: SplitFiles,
    *,
    require_annotations: bool = True,
    classes_of: str | None = None,
) -> str:
    """Check annotations of any known format and register them with Detectron2.

    To be called in every process. Registering the same files under the same name again does
    nothing. Class indices follow ascending category ids, whatever these are. The metadata gets
    ``thing_classes``, ``thing_dataset_id_to_contiguous_id``, ``json_file``, ``image_root``,
    ``evaluator_type`` and ``source_files`` (what ``files`` is); ``json_file`` is a copy in COCO
    format in the cache folder if COCO evaluation could not use the original (see
    :mod:`sap_detr.data.evaluation_file`).

    Args:
        name: name for the catalog.
        files: the split.
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
    if name in DatasetCatalog.list():
        others = MetadataCatalog.get(name).get("source_files", None)
        if others == files:
            return name
        other = f"{others.path} ({others.image_root})" if others else "something else"
        raise DatasetError(
            f"the data set name {name!r} is taken by {other}, it can't stand "
            f"for {files.path} ({files.image_root}) too: choose another name, and use it in the "
            "config's data loaders as well"
        )
    if not files.image_root.is_dir():
        raise FileNotFoundError(
            f"{files.image_root}, the folder of the images of data set {name!r}, is missing"
        )

    categories = None if classes_of is None else registered_categories(classes_of)
    registered = RegisteredAnnotations(files, require_annotations, categories)
    annotations = registered.look()
    annotations.findings.raise_errors()
    annotations.findings.log()
    DatasetCatalog.register(name, registered)
    MetadataCatalog.get(name).set(
        thing_classes=annotations.class_names,
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(annotations.categories)},
        json_file=annotations.evaluation_file or str(files.path),
        image_root=str(files.image_root),
        evaluator_type="coco",
        source_files=files,
    )
    return name


def register_folder(
    name: str,
    folder: str | os.PathLike[str],
    train: str | None = None,
    val: str | None = None,
    format: str | None = None,
    val_share: float | None = None,
) -> list[str]:
    """Find the splits of a folder, and register them as ``{name}_train`` and ``{name}_val``.

    Classes go by their names: see ``classes_of`` of :func:`register_split`. Other layouts than
    those of :func:`~sap_detr.data.layouts.find_splits` can be registered split by split.

    Args:
        name: the names in the catalog start with it.
        folder, train, val, format, val_share: as of :func:`~sap_detr.data.layouts.find_splits`.

    Returns:
        The registered names.

    Raises:
        FileNotFoundError: if a split is not found; it lists what was looked for.
        DatasetError: as ``register_split`` and ``find_splits`` do.
    """
    splits = find_splits(folder, train, val, format, val_share)
    trained = register_split(f"{name}_train", splits.pop("train"))
    names = [trained] + [
        register_split(f"{name}_{split}", files, require_annotations=False, classes_of=trained)
        for split, files in splits.items()
    ]
    return names


def describe_source(name: str) -> str:
    """Return a line about a registered data set: its format, and where it lies."""
    metadata = MetadataCatalog.get(name)
    files = metadata.get("source_files", None)
    if files is None:
        return f"data set {name}: {metadata.get('json_file', 'not registered by sap_detr')}"
    return f"data set {name}: {files.format}, {files.path}, images in {files.image_root}"


# What it was called when it knew COCO's format only: saved configs name it.
register_coco_folder = register_folder
