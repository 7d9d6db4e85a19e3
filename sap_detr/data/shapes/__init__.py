"""The generated ``shapes`` data set: overlapping shapes in COCO format."""

from .dataset import generate_shapes, register_shapes

__all__ = ["generate_shapes", "register_shapes"]
