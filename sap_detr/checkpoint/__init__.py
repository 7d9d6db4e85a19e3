"""Published checkpoints to ours and back, and loading that is safe and says what it did."""

from .checkpointer import BEST, FINAL, SafeCheckpointer, non_finite_names
from .loading import ClassNames, LoadReport, load_weights, unwrap_model
from .published import (
    COCO_CATEGORY_IDS,
    DETR,
    NAME_MAPS,
    SAP_DETR,
    UNUSED_CLASS_BIAS,
    NameMap,
    backbone_pairs,
    coco_class_names,
    detect_format,
    expand_class_rows,
    model_state,
    register_name_map,
    select_class_rows,
    to_ours,
    to_published,
)
from .run_lock import lock_run_folder, release_run_folder
from .safe_load import (
    CheckpointError,
    UntrustedCheckpointError,
    load_checkpoint_file,
    save_checkpoint_file,
)

__all__ = [
    "BEST",
    "COCO_CATEGORY_IDS",
    "DETR",
    "FINAL",
    "NAME_MAPS",
    "SAP_DETR",
    "UNUSED_CLASS_BIAS",
    "CheckpointError",
    "ClassNames",
    "LoadReport",
    "NameMap",
    "SafeCheckpointer",
    "UntrustedCheckpointError",
    "backbone_pairs",
    "coco_class_names",
    "detect_format",
    "expand_class_rows",
    "load_checkpoint_file",
    "load_weights",
    "lock_run_folder",
    "model_state",
    "non_finite_names",
    "register_name_map",
    "release_run_folder",
    "save_checkpoint_file",
    "select_class_rows",
    "to_ours",
    "to_published",
    "unwrap_model",
]
