"""Data sets by their names in Detectron2's catalogs: their dicts and their classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..text import shorten
from .annotation_file import as_integer
from .boxes import Fault, check_box
from .errors import DatasetError
from .findings import Findings, Kind
from .standard_dict import StandardDict, name_image, require_objects


def dataset_records(names: str | Sequence[str]) -> Sequence[StandardDict]:
    """Return the standard dicts of one or several registered data sets, to be looked at only.

    Those of one that is registered here are made anew whenever one is asked for, which takes a
    seventh of the memory; ``list`` of them can be changed.

    Args:
        names: names in Detectron2's catalog.

    Raises:
        DatasetError: if a name is unknown, a data set is empty, or their classes differ.
        FileNotFoundError: if an annotation file is missing.
    """
    names = _as_names(names)
    if len(names) > 1:
        dataset_class_names(names)
    # Not by Detectron2's function, which counts classes image by image for a table that is printed.
    loaded = [load_dataset(name) for name in names]
    return loaded[0] if len(loaded) == 1 else [record for part in loaded for record in part]


def dataset_class_names(names: str | Sequence[str]) -> list[str]:
    """Return the class names, by class index, of data sets that must agree about them.

    Raises:
        DatasetError: if a name is unknown, a data set has no class names, or they differ.
        FileNotFoundError: if an annotation file is missing.
    """
    classes: dict[str, list[str]] = {}
    for name in _as_names(names):
        if class_names(name) is None:
            load_dataset(name)
        found = class_names(name)
        if found is None:
            raise DatasetError(
                f"the data set {name!r} has no class names: set "
                f"MetadataCatalog.get({name!r}).thing_classes"
            )
        classes[name] = found
    first, *others = classes
    for other in others:
        if classes[other] != classes[first]:
            raise DatasetError(
                f"the data sets {first!r} and {other!r} can't be used together, their classes "
                f"differ:\n  {first}: {classes[first]}\n  {other}: {classes[other]}"
            )
    return classes[first]


def class_names(name: str) -> list[str] | None:
    """Return the class names that the catalog has of a data set, None if it has none (yet)."""
    names = MetadataCatalog.get(name).get("thing_classes", None)
    return None if names is None else list(names)


def registered_categories(name: str) -> dict[int, str] | None:
    """Return class names by category id, in the order of the class indices; None if not known."""
    metadata = MetadataCatalog.get(name)
    ids = metadata.get("thing_dataset_id_to_contiguous_id", None)
    names = class_names(name)
    if ids is None or names is None:
        return None
    return {category_id: names[index] for category_id, index in ids.items()}


def _as_names(names: str | Sequence[str]) -> list[str]:
    listed = [names] if isinstance(names, str) else list(names)
    if not listed:
        raise DatasetError("no data set is named")
    return listed


def require_dataset(name: str) -> None:
    """Raise what ``load_dataset`` does if a name is unknown or its annotation file is missing."""
    if name not in DatasetCatalog.list():
        known = ", ".join(sorted(DatasetCatalog.list()))
        raise DatasetError(
            f"there is no data set {name!r}. Register it first "
            "(sap_detr.data.register_folder, or in a config "
            f"dataset = L(register_folder)(name=..., folder=...)). Known: {known}"
        )
    json_file = MetadataCatalog.get(name).get("json_file", None)
    if json_file is not None and "://" not in json_file and not Path(json_file).is_file():
        root = os.environ.get("DETECTRON2_DATASETS")
        setting = f"it is {root!r}" if root else "it is not set, so ./datasets is used"
        raise FileNotFoundError(
            f"{Path(json_file).absolute()}, the annotations of data set {name!r}, is missing. The "
            "environment variable DETECTRON2_DATASETS names the folder in which Detectron2's "
            f"builtin data sets lie ({setting})."
        )


def load_dataset(name: str) -> Sequence[StandardDict]:
    """Return the dicts of a data set in Detectron2's catalog, to be looked at only.

    Raises:
        FileNotFoundError: if its annotation file is missing.
        DatasetError: if the name is unknown, or loading fails because of the annotations.
    """
    require_dataset(name)
    json_file = MetadataCatalog.get(name).get("json_file", None)
    try:
        # Those that we registered need not make dicts of all.
        load = getattr(DatasetCatalog[name], "records", DatasetCatalog[name])
        dicts: Sequence[StandardDict] = load()
    except (DatasetError, FileNotFoundError):
        raise
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"the data set {name!r} needs a package that is not installed: pip install {error.name}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise DatasetError(
            f"{json_file or name}: the data set {name!r} can't be loaded "
            f"({type(error).__name__}: {error}); check its annotations"
        ) from error
    if not dicts:
        raise DatasetError(f"{json_file or name}: the data set {name!r} has no images")
    return dicts


def inspect_dicts(
    dicts: Sequence[StandardDict],
    class_names: Sequence[str] | None,
    findings: Findings,
    *,
    training: bool = True,
) -> list[StandardDict]:
    """Check standard dicts, wherever they come from.

    Args:
        dicts: one per image.
        class_names: names in the order of ``category_id``; None if they are not known.
        findings: gets what is wrong.
        training: whether they are trained on.

    Returns:
        Those that name a file; without annotations if boxes or classes can't be relied on.
    """
    usable = []
    for index, record in enumerate(dicts):
        if not isinstance(record.get("file_name"), (str, os.PathLike)):
            findings.add(Kind.UNUSABLE_IMAGE, f"record {index}", "has no file_name")
            continue
        usable.append(record)
        for number, annotation in enumerate(record.get("annotations", ())):
            try:
                _check_annotation(annotation, class_names)
            except Fault as fault:
                where = f"{name_image(record)}, annotation {number}"
                findings.add(fault.kind, where, fault.what)
    if findings.of("error"):
        return [{**record, "annotations": []} for record in usable]
    require_objects(usable, findings, training)
    return usable


def _check_annotation(annotation: dict[str, Any], class_names: Sequence[str] | None) -> None:
    mode = annotation.get("bbox_mode")
    if mode not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        raise Fault(Kind.BOX_MODE, f"bbox_mode is {mode!r}")
    check_box(annotation.get("bbox"), BoxMode(mode))
    category = as_integer(annotation.get("category_id"))
    if category is None or category < 0 or (class_names and category >= len(class_names)):
        what = f"category_id is {shorten(annotation.get('category_id'))}"
        if class_names:
            what += f", class indices go from 0 to {len(class_names) - 1}"
        raise Fault(Kind.UNKNOWN_CATEGORY, what)
