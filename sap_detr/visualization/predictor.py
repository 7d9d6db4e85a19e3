"""Detection in single images, outside of any data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import nn

from ..engine import NonFiniteDetectionsError
from ..engine.finite_detections import count_non_finite
from .pixels import Pixels, check_image


class Predictor:
    """Runs a model on RGB arrays.

    Args:
        model: a Detectron2 model; it is put in evaluation mode.
        augmentations: what is done to an image before, such as the ``augmentations`` of the mapper
            that the model was evaluated with.
        image_format: channel order that the model takes, "RGB" or "BGR". Images are given in RGB
            whatever it is.

    Raises:
        ValueError: if ``image_format`` is neither.
    """

    def __init__(
        self,
        model: nn.Module,
        augmentations: T.Augmentation | Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
    ) -> None:
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
        self.model = model.eval()
        if not isinstance(augmentations, T.Augmentation):
            augmentations = T.AugmentationList(list(augmentations))
        self.augmentations = augmentations
        self.image_format = image_format

    def __call__(self, image: Pixels) -> Instances:
        """Detect in one image.

        Args:
            image: (H, W, 3), uint8, RGB.

        Returns:
            ``pred_boxes`` (XYXY pixels of ``image``), ``scores`` and ``pred_classes``, on the CPU.

        Raises:
            ValueError: if the image is something else, such as a float array or a path.
            NonFiniteDetectionsError: if boxes or scores of the model are not finite.
        """
        [instances] = self.detect([self.prepare(image)])
        check_finite(instances)
        return instances

    def prepare(self, image: Pixels) -> dict[str, Any]:
        """Make the model's input of an image (H, W, 3), uint8, RGB.

        Raises:
            ValueError: if the image is something else.
        """
        check_image(image)
        height, width = image.shape[:2]
        if self.image_format == "BGR":
            image = image[:, :, ::-1]
        augmented = T.AugInput(np.ascontiguousarray(image))
        self.augmentations(augmented)
        pixels = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        return {"image": pixels, "height": height, "width": width}

    @torch.no_grad()
    def detect(self, batch: list[dict[str, Any]]) -> list[Instances]:
        """Detect in a batch of what :meth:`prepare` made; whether all is finite is not checked.

        Returns:
            Per image, as of a call.
        """
        return [outputs["instances"].to("cpu") for outputs in self.model(batch)]


def check_finite(instances: Instances, name: str = "") -> None:
    """Check the boxes and scores that a model found in an image.

    Args:
        instances: what was found.
        name: of the image, for the message.

    Raises:
        NonFiniteDetectionsError: if any is NaN or infinite.
    """
    if bad := count_non_finite(instances):
        where = f"{name}: " if name else ""
        raise NonFiniteDetectionsError(
            f"{where}{bad} of {len(instances)} detections are NaN or infinite: the weights have "
            "diverged, or overflow on this image. Take an earlier checkpoint"
        )
