"""An evaluation ends at the first image whose detections are not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances

from ..errors import UserError


class NonFiniteDetectionsError(UserError, FloatingPointError):
    """A model's scores or boxes are NaN or infinite; the message names the image."""


class FiniteDetections(DatasetEvaluator):  # type: ignore[misc]
    """Detectron2 evaluator without results of its own, to be put before others.

    pycocotools takes a box of NaN for one that overlaps every object, and so makes up an AP.
    """

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Look at the detections of a batch.

        Raises:
            NonFiniteDetectionsError: it names the first image with a detection that is not finite.
        """
        for image, output in zip(inputs, outputs, strict=True):
            # Other models may have other outputs.
            found = output.get("instances", ())
            bad = count_non_finite(found) if isinstance(found, Instances) else 0
            if bad:
                raise NonFiniteDetectionsError(
                    f"{bad} of {len(found)} detections in image {image.get('image_id')} "
                    f"({image.get('file_name', 'no file')}) are NaN or infinite, so there is no "
                    "AP. The weights have diverged, or overflow on this image: evaluate those of "
                    "an earlier checkpoint, or train with a lower optimizer.lr"
                )


def count_non_finite(found: Instances) -> int:
    """Return how many detections have a score or a box that is NaN or infinite."""
    finite = found.scores.isfinite() & found.pred_boxes.tensor.isfinite().all(-1)
    return int((~finite).sum())
