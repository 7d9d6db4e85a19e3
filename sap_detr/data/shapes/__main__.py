"""``python -m sap_detr.data.shapes --folder datasets/shapes``: write the generated data set."""

from __future__ import annotations

import argparse
import sys

from ..errors import DatasetError
from .dataset import generate_shapes
from .drawing import SMALLEST_RADIUS


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, generate, and say where the set is."""
    parser = argparse.ArgumentParser(
        prog="python -m sap_detr.data.shapes",
        description="Generate a COCO-format data set of overlapping shapes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--folder", required=True, help="new or empty folder to write to")
    for option, default, text in (
        ("--num-train", 1000, "training images"),
        ("--num-val", 200, "validation images"),
        ("--seed", 0, "another seed, another set"),
        ("--max-objects", 8, "most shapes in an image"),
        ("--min-radius", SMALLEST_RADIUS, "of the shapes, in pixels"),
    ):
        parser.add_argument(option, type=int, default=default, help=text)
    for option in ("--height", "--width"):
        text = "of images in pixels, or its lowest and highest value"
        parser.add_argument(option, type=int, nargs="+", default=[128, 192], help=text)
    args = vars(parser.parse_args(arguments))
    height, width = args.pop("height"), args.pop("width")
    if max(len(height), len(width)) > 2:
        parser.error("--height and --width take one or two numbers")
    size = ((height[0], height[-1]), (width[0], width[-1]))
    try:
        folder = generate_shapes(image_size=size, **args)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args['num_train']} training and {args['num_val']} validation images are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
