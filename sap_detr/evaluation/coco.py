"""COCO evaluation that copes with what custom data sets leave out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator


class DetectionEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator`` for boxes.

    Annotations without ``area`` or ``iscrowd``, which COCO's protocol needs and many exported data
    sets lack, count as width times height and as no crowd.

    Args:
        dataset_name: name in the catalogs.
        output_dir: where the detections are written; None writes none.
        max_dets_per_image: most detections of an image that count; COCO's 100 by default.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        max_dets_per_image: int | None = None,
    ) -> None:
        arguments: dict[str, Any] = {"tasks": ("bbox",), "output_dir": output_dir}
        known = inspect.signature(COCOEvaluator.__init__).parameters
        if max_dets_per_image is not None:
            if "max_dets_per_image" not in known:
                raise ValueError(
                    "this Detectron2 always counts COCO's 100 detections per image; "
                    "leave max_dets_per_image out or install a newer one"
                )
            arguments["max_dets_per_image"] = max_dets_per_image
        super().__init__(dataset_name, **arguments)
        complete_annotations(self._coco_api.dataset.get("annotations", []))

    def class_aps(self, results: dict[str, dict[str, float]]) -> dict[str, float]:
        """AP by class name, out of what ``evaluate`` returned."""
        names: Sequence[str] = MetadataCatalog.get(self._metadata.name).thing_classes
        boxes = results["bbox"]
        return {name: boxes[f"AP-{name}"] for name in names if f"AP-{name}" in boxes}


def complete_annotations(annotations: list[dict[str, Any]]) -> None:
    """Adds ``area`` (width times height of the XYWH box) and ``iscrowd`` (0) where missing."""
    for annotation in annotations:
        _, _, width, height = annotation["bbox"]
        annotation.setdefault("area", width * height)
        annotation.setdefault("iscrowd", 0)
