"""The image sizes that published costs are means over, recorded so that no data set is needed."""

from __future__ import annotations

import json
from importlib import resources

from ..data import resized_shape

# Orders of COCO val2017: of the annotation file, which gives the published figures, and of the ids,
# which is that of today's loaders. Their first 100 images are not the same.
ORDERS = ("file", "id")


def coco_val2017_sizes(order: str) -> list[tuple[int, int]]:
    """(height, width) in pixels of the first 100 images of COCO val2017, resized to 800/1333.

    Args:
        order: "file" or "id", see ``ORDERS``.

    Raises:
        ValueError: if there is no such order.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {list(ORDERS)}, got {order!r}")
    file = resources.files(__package__) / "coco_val2017_first100_sizes.json"
    images = json.loads(file.read_text(encoding="utf-8"))[order]
    return [resized_shape(height, width, 800, 1333) for _, height, width in images]
