"""What Detectron2's evaluation lacks."""

from .coco import DetectionEvaluator, complete_annotations

__all__ = ["DetectionEvaluator", "complete_annotations"]
