"""AP of the model and of a file, on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evaluation.coco_numbers import coco_numbers
from ..evaluation.dataset import evaluation_data
from .check import Pair
from .running import Found


@dataclass(frozen=True)
class Labels:
    """What is in the images of pairs.

    Attributes:
        annotations: COCO's dict; images that are not compared on count for nothing.
        image_ids: of the images, in order.
        category_ids: by class number; -1 for classes that are none of the labels'.
    """

    annotations: Mapping[str, Any]
    image_ids: Sequence[int]
    category_ids: Sequence[int]

    def average_precision(self, pairs: Sequence[Pair], found: Callable[[Pair], Found]) -> float:
        """Return AP of what one of those that were compared has found, in points of 100."""
        images = set(self.image_ids[: len(pairs)])
        kept = {
            **self.annotations,
            "images": [x for x in self.annotations["images"] if x["id"] in images],
            "annotations": [x for x in self.annotations["annotations"] if x["image_id"] in images],
        }
        results = []
        for pair, image_id in zip(pairs, self.image_ids, strict=False):
            results += self._results(found(pair), pair, image_id)
        return 100 * coco_numbers(evaluation_data(kept, results)).twelve["AP"]

    def _results(self, found: Found, pair: Pair, image_id: int) -> list[dict[str, Any]]:
        """Return COCO's detections in an image, in pixels of the picture."""
        down, across = (a / b for a, b in zip(pair.original_size, pair.size, strict=True))
        results = []
        for (left, top, right, bottom), score, number in zip(
            *(x.tolist() for x in found), strict=True
        ):
            if self.category_ids[number] < 0:
                continue
            box = [left * across, top * down, (right - left) * across, (bottom - top) * down]
            results.append(
                {
                    "image_id": image_id,
                    "category_id": self.category_ids[number],
                    "bbox": box,
                    "score": score,
                }
            )
        return results
