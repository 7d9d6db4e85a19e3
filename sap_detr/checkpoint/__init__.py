"""Checkpoints: reading and writing that is safe, names of published ones, loading that is told."""

from . import package_weights, timm_weights
from .checkpointer import SafeCheckpointer
from .class_rows import ClassNames, coco_class_names
from .loading import LoadReport, load_weights, non_finite_names, unwrap_model
from .name_map import NAME_MAPS, NameMap, NamePairs, StackedNames, register_name_map
from .processes import by_one_process
from .run_files import BEST, FINAL, step_name
from .run_lock import lock_run_folder, release_run_folder
from .safe_load import CheckpointError, UntrustedCheckpointError, load_checkpoint_file
from .safe_save import save_checkpoint_file, write_atomically
from .weight_sets import RAW, SCORED

__all__ = [
    "BEST",
    "FINAL",
    "NAME_MAPS",
    "RAW",
    "SCORED",
    "CheckpointError",
    "ClassNames",
    "LoadReport",
    "NameMap",
    "NamePairs",
    "SafeCheckpointer",
    "StackedNames",
    "UntrustedCheckpointError",
    "by_one_process",
    "coco_class_names",
    "load_checkpoint_file",
    "load_weights",
    "lock_run_folder",
    "non_finite_names",
    "register_name_map",
    "release_run_folder",
    "save_checkpoint_file",
    "step_name",
    "unwrap_model",
    "write_atomically",
]
