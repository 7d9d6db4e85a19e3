"""Registers data sets in COCO format with Detectron2."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from .checks import CheckedAnnotations, DatasetError, check_coco_json

logger = logging.getLogger(__name__)

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

# What each name that this module registered stands for: (annotation file, image folder).
_registered: dict[str, tuple[str, str]] = {}


def register_coco(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    require_annotations: bool = True,
) -> str:
    """Check annotations in COCO format and register them with Detectron2.

    To be called in every process. Registering the same files under the same name again does
    nothing. Class indices follow ascending category ids, whatever these are. The metadata gets
    ``thing_classes``, ``thing_dataset_id_to_contiguous_id``, ``json_file``, ``image_root`` and
    ``evaluator_type``; ``json_file`` is a repaired copy in the cache folder if COCO evaluation
    could not use the original (see ``CheckedAnnotations``).

    Args:
        name: name for the catalog.
        json_file: annotations.
        image_root: folder that the annotations' file names are relative to.
        require_annotations: False for images without known objects, which can be used for inference
            only.

    Returns:
        The name.

    Raises:
        FileNotFoundError: if the file or the folder is missing.
        DatasetError: if the annotations can't be used, or the name stands for another data set.
    """
    source = _absolute(json_file), _absolute(image_root)
    if name in DatasetCatalog.list():
        if _registered.get(name) == source:
            return name
        json_file, image_root = _registered.get(name, ("something else", "not by this function"))
        raise DatasetError(
            f"the data set name {name!r} is taken by {json_file} ({image_root}), it can't stand "
            f"for {source[0]} "
            f"({source[1]}) too: choose another name, and use it in the config's data loaders as "
            "well"
        )
    if not Path(source[1]).is_dir():
        raise FileNotFoundError(
            f"{source[1]}, the folder of the images of data set {name!r}, is missing"
        )
    checked = check_coco_json(*source, require_annotations=require_annotations)
    checked.log_repairs()

    def load() -> list[dict]:
        return check_coco_json(*source, require_annotations=require_annotations).dicts

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        thing_classes=checked.class_names,
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(checked.category_ids)},
        json_file=_evaluation_file(checked),
        image_root=source[1],
        evaluator_type="coco",
    )
    _registered[name] = source
    return name


def register_coco_folder(
    name: str,
    folder: str | os.PathLike[str],
    train: str | None = None,
    val: str | None = None,
) -> list[str]:
    """Find the splits of a folder, and register them as ``{name}_train`` and ``{name}_val``.

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
            not given and neither is there, only the training split is registered, with a warning.

    Returns:
        The registered names.

    Raises:
        FileNotFoundError: if a split is not found; it lists what was looked for.
        DatasetError: as ``register_coco`` does.
    """
    splits = find_coco_splits(folder, train, val)
    names = [register_coco(f"{name}_{split}", *source) for split, source in splits.items()]
    if "val" not in splits:
        logger.warning(
            "%s has no validation split: only %s is registered. Evaluation needs one: name it "
            "with val=..., or register it with register_coco.",
            folder,
            names[0],
        )
    return names


def find_coco_splits(
    folder: str | os.PathLike[str], train: str | None = None, val: str | None = None
) -> dict[str, tuple[Path, Path]]:
    """Annotation file and image folder of ``train`` and, where there is one, of ``val``.

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
    """Annotation file and image folder of a split, which may have one of several names."""
    tried = []
    for split in split_names:
        for json_pattern, images_pattern in _LAYOUTS:
            json_name, images_name = (p.format(split=split) for p in (json_pattern, images_pattern))
            if (root / json_name).is_file() and (root / images_name).is_dir():
                return root / json_name, root / images_name
            tried.append(f"{json_name} with {images_name}/")
    found = ", ".join(sorted(p.name + "/" * p.is_dir() for p in root.iterdir())[:20]) or "nothing"
    looked = "\n".join(f"  - {t}" for t in tried)
    raise FileNotFoundError(
        f"{root}: no {' or '.join(split_names)} split in COCO format. Looked for\n{looked}\nThe "
        f"folder holds: {found}. "
        "Rename the files, or register them one by one with register_coco(name, json_file, "
        "image_root)."
    )


def _evaluation_file(checked: CheckedAnnotations) -> str:
    """The annotation file for COCO evaluation: the original, or a repaired copy if it needs one."""
    if checked.evaluation_json is None:
        return checked.json_file
    content = json.dumps(checked.evaluation_json)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = _cache_folder()
    target = folder / f"{Path(checked.json_file).stem}_{digest}.json"
    # Several processes may write it at once: the last rename wins, with the same content.
    descriptor, partial = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    Path(partial).replace(target)
    logger.info("COCO evaluation of %s uses its repaired copy %s", checked.json_file, target)
    return str(target)


def _cache_folder() -> Path:
    """``$SAP_DETR_CACHE`` or the user's cache folder; a temporary one if it can't be written to."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("SAP_DETR_CACHE") or base / "sap_detr")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="sap_detr_"))
