"""Turns a dataset dict into a model input: reads the image, augments it and its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances
from numpy.typing import NDArray

from .errors import DatasetError
from .findings import Kind
from .images import BadImageError, OpenImage
from .pixels import PixelRange
from .rendering import SizeInput, SizeOnly, render, require_size_only
from .standard_dict import objects

READERS = ("pil", "fast", "device")


class DetrDatasetMapper:
    """Maps Detectron2's standard dict to what the detector takes.

    All randomness comes from numpy's global state, as in Detectron2's augmentations.

    Args:
        is_train: whether to give ``instances``.
        augmentations: applied in order.
        augmentations_with_crop: applied in place of ``augmentations`` to a random part of the
            images.
        crop_probability: the size of that part; unused without ``augmentations_with_crop``.
        image_format: order of the image's channels, "RGB" or "BGR".
        reader: how pixels are made; sizes and boxes are the same with all:

            * "pil": by Pillow and the augmentations, as published.
            * "fast": with torch's bilinear resize, which differs from Pillow's by 1 of 255 at most;
              JPEGs that shrink to less than half are decoded at a fraction of their size. See
              :func:`render`.
            * "device": as "fast", but an enlarging resize at the end is left to the model.
        pixel_range: what becomes of images of more than 8 bits, as :meth:`PixelRange.parse` reads
            it: full, bits=N, percentile=P or refuse.

    Raises:
        ValueError: if probability, reader or range make no sense, or augmentations need pixels
            to be drawn and the reader is not "pil".
    """

    def __init__(
        self,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        augmentations_with_crop: Sequence[T.Augmentation | T.Transform] | None = None,
        crop_probability: float = 0.5,
        image_format: str = "RGB",
        reader: str = "pil",
        pixel_range: str = "full",
    ) -> None:
        if reader not in READERS:
            raise ValueError(f"reader must be one of {', '.join(READERS)}, got {reader!r}")
        if not 0 <= crop_probability <= 1:
            raise ValueError(f"crop_probability must be in 0..1, got {crop_probability}")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.augmentations_with_crop = (
            None
            if augmentations_with_crop is None
            else T.AugmentationList(list(augmentations_with_crop))
        )
        self.crop_probability = crop_probability
        self.image_format = image_format
        self.reader = reader
        self.pixel_range = PixelRange.parse(pixel_range)
        if reader != "pil":
            for pipeline in (self.augmentations, self.augmentations_with_crop):
                if pipeline is not None:
                    require_size_only(pipeline)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and augment one image.

        Args:
            dataset_dict: standard dict of one image; it is not changed.

        Returns:
            The dict without its annotations, plus ``image``, uint8 (3, H, W), and in training
            ``instances``: the objects that are not crowds and have any area left, with ``gt_boxes``
            (XYXY pixels of ``image``) and ``gt_classes``. ``height`` and ``width`` are the original
            size. With the reader "device" also ``resize_to``, the height and width that the model
            still has to give ``image``, if they are others; boxes refer to these.

        Raises:
            BadImageError: if the image can't be read or has not the size that the dict says.
            DatasetError: if a box is not finite.
        """
        result = {k: v for k, v in dataset_dict.items() if k != "annotations"}
        with OpenImage(result["file_name"], self.pixel_range) as file:
            original_size = (file.height, file.width)
            _check_size(result, original_size)
            transforms, new_size = self._augment(file, result)
        if self.is_train:
            result["instances"] = _to_instances(
                list(objects(dataset_dict)), transforms, original_size, new_size, result
            )
        return result

    def _augment(
        self, file: OpenImage, record: dict[str, Any]
    ) -> tuple[T.TransformList, tuple[int, int]]:
        """Put the image into ``record``; returns the transforms, and the size that they lead to."""
        augmentations = self.augmentations
        if self.augmentations_with_crop is not None and np.random.uniform() < self.crop_probability:
            augmentations = self.augmentations_with_crop
        if self.reader == "pil":
            augmented = T.AugInput(file.decode(self.image_format))
            transforms = augmentations(augmented)
            # Flipped images have negative strides, which torch does not take.
            pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
            record["image"] = torch.from_numpy(pixels)
        else:
            augmented = SizeInput(file.height, file.width)
            transforms = augmentations(augmented)
            record["image"], resize_to = render(
                file, transforms, self.image_format, leave_enlarging=self.reader == "device"
            )
            if resize_to is not None:
                record["resize_to"] = resize_to
        return transforms, augmented.image.shape[:2]


def _check_size(record: dict[str, Any], size: tuple[int, int]) -> None:
    """Compare a record with the (height, width) of its image; it gets them if it has none."""
    try:
        detection_utils.check_image_size(record, SizeOnly(*size))
    except detection_utils.SizeMismatchError as error:
        raise BadImageError(record["file_name"], Kind.WRONG_SIZE, str(error)) from error


def _to_instances(
    annotations: Sequence[dict[str, Any]],
    transforms: T.Transform,
    original_size: tuple[int, int],
    new_size: tuple[int, int],
    record: dict[str, Any],
) -> Instances:
    """Transform annotations into ``Instances`` of an image of ``new_size`` (height, width).

    Boxes are clipped to the original image first, because an augmentation that pads would make
    room for what lies outside, and to the new one at the end. Boxes without area are dropped.
    """
    xyxy = [
        BoxMode.convert(np.asarray(a["bbox"], np.float64)[None], a["bbox_mode"], BoxMode.XYXY_ABS)
        for a in annotations
    ]
    boxes = np.concatenate(xyxy) if xyxy else np.zeros((0, 4))
    if not np.isfinite(boxes).all():
        raise DatasetError(f"{record['file_name']}: has a box that is not finite: {boxes.tolist()}")
    boxes = _clip(boxes, original_size)
    if len(boxes):
        boxes = _clip(transforms.apply_box(boxes), new_size)
    gt_boxes = torch.from_numpy(boxes).float()
    gt_classes = torch.tensor([int(a["category_id"]) for a in annotations], dtype=torch.int64)
    instances = Instances(new_size, gt_boxes=Boxes(gt_boxes), gt_classes=gt_classes)
    return instances[(gt_boxes[:, 2:] > gt_boxes[:, :2]).all(dim=1)]


def _clip(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Clip XYXY boxes (N, 4) to an image of ``size`` (height, width)."""
    height, width = size
    return np.clip(boxes, 0.0, np.array([width, height, width, height], np.float64))
