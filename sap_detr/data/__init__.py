"""Registration and checks of data sets, augmentation, loaders, and the ``shapes`` data set."""

from .bad_images import BadImages
from .build import (
    EpochSampler,
    TrainLoader,
    build_test_loader,
    build_train_loader,
    dataset_class_names,
    get_dataset_dicts,
)
from .checks import (
    CheckedAnnotations,
    DatasetSummary,
    check_coco_json,
    check_dataset_dicts,
    check_datasets,
    check_image_files,
    load_dataset,
)
from .coco_folder import find_coco_splits, register_coco, register_coco_folder
from .errors import BadImageError, DatasetError
from .images import ImageFacts, inspect_image, max_image_pixels, read_image
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
    "BadImageError",
    "BadImages",
    "CheckedAnnotations",
    "DatasetError",
    "DatasetSummary",
    "DetrDatasetMapper",
    "EpochSampler",
    "ImageFacts",
    "ResizeShortSide",
    "TrainLoader",
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
    "find_coco_splits",
    "generate_shapes",
    "get_dataset_dicts",
    "inspect_image",
    "load_dataset",
    "max_image_pixels",
    "read_image",
    "register_coco",
    "register_coco_folder",
    "register_shapes",
    "resized_shape",
]
