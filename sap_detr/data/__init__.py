"""Registration and checks of data sets, augmentation, loaders, and the ``shapes`` data set."""

from .build import (
    EpochSampler,
    build_test_loader,
    build_train_loader,
    dataset_class_names,
    get_dataset_dicts,
)
from .checks import (
    CheckedAnnotations,
    DatasetError,
    DatasetSummary,
    check_coco_json,
    check_dataset_dicts,
    check_datasets,
    check_image_files,
    load_dataset,
)
from .coco_folder import register_coco, register_coco_folder
from .mapper import DetrDatasetMapper
from .shapes import generate_shapes, register_shapes
from .transforms import (
    DETR_SHORT_SIDES,
    ResizeShortSide,
    build_crop_augmentations,
    build_test_augmentations,
    build_train_augmentations,
    resized_shape,
)

__all__ = [
    "DETR_SHORT_SIDES",
    "CheckedAnnotations",
    "DatasetError",
    "DatasetSummary",
    "DetrDatasetMapper",
    "EpochSampler",
    "ResizeShortSide",
    "build_crop_augmentations",
    "build_test_augmentations",
    "build_test_loader",
    "build_train_augmentations",
    "build_train_loader",
    "check_coco_json",
    "check_dataset_dicts",
    "check_datasets",
    "check_image_files",
    "dataset_class_names",
    "generate_shapes",
    "get_dataset_dicts",
    "load_dataset",
    "register_coco",
    "register_coco_folder",
    "register_shapes",
    "resized_shape",
]
