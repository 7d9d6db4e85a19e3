"""The generated ``shapes`` data set: overlapping shapes in COCO format."""

from .dataset import CLASS_NAMES, generate_shapes, register_shapes

__all__ = ["CLASS_NAMES", "generate_shapes", "register_shapes"]
