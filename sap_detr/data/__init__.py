"""Registration and inspection of data sets, augmentation, loaders, and the ``shapes`` data set."""

from .any_image import AnyImage, find_images, to_pixels
from .coco_schema import CocoAnnotations
from .errors import DatasetError
from .findings import Finding, Findings, Kind
from .images import (
    BadImageError,
    image_suffixes,
    inspect_image,
    max_image_pixels,
    read_image,
)
from .inspection import check_datasets
from .layouts import find_splits
from .loader import TrainLoader, build_test_loader, build_train_loader
from .mapper import DetrDatasetMapper
from .pixels import PixelRange, PixelsError
from .registration import (
    describe_source,
    register_coco,
    register_coco_folder,
    register_folder,
    register_split,
)
from .registry import dataset_class_names, dataset_records
from .sampler import EpochSampler
from .shapes import generate_shapes, register_shapes
from .transforms import (
    DETR_SHORT_SIDES,
    ResizeShortSide,
    build_crop_augmentations,
    build_jitter_augmentations,
    build_test_augmentations,
    build_train_augmentations,
    resized_shape,
)
from .unreadable_images import UnreadableImages

__all__ = [
    "DETR_SHORT_SIDES",
    "AnyImage",
    "BadImageError",
    "CocoAnnotations",
    "DatasetError",
    "DetrDatasetMapper",
    "EpochSampler",
    "Finding",
    "Findings",
    "Kind",
    "PixelRange",
    "PixelsError",
    "ResizeShortSide",
    "TrainLoader",
    "UnreadableImages",
    "build_crop_augmentations",
    "build_jitter_augmentations",
    "build_test_augmentations",
    "build_test_loader",
    "build_train_augmentations",
    "build_train_loader",
    "check_datasets",
    "dataset_class_names",
    "dataset_records",
    "describe_source",
    "find_images",
    "find_splits",
    "generate_shapes",
    "image_suffixes",
    "inspect_image",
    "max_image_pixels",
    "read_image",
    "register_coco",
    "register_coco_folder",
    "register_folder",
    "register_shapes",
    "register_split",
    "resized_shape",
    "to_pixels",
]
