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
    parser.add_argument("--num-train", type=int, default=1000, help="training images")
    parser.add_argument("--num-val", type=int, default=200, help="validation images")
    for side in ("height", "width"):
        parser.add_argument(
            f"--{side}",
            type=int,
            nargs="+",
            default=[128, 192],
            help=f"image {side} in pixels, or its lowest and highest value",
        )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-objects", type=int, default=8, help="most shapes in an image")
    parser.add_argument(
        "--min-radius", type=int, default=SMALLEST_RADIUS, help="of the shapes, in pixels"
    )
    args = parser.parse_args(arguments)
    ranges = []
    for side in (args.height, args.width):
        if len(side) > 2:
            parser.error("--height and --width take one or two numbers")
        ranges.append((side[0], side[-1]))
    try:
        folder = generate_shapes(
            args.folder,
            args.num_train,
            args.num_val,
            ranges,
            args.seed,
            args.max_objects,
            args.min_radius,
        )
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.num_train} training and {args.num_val} validation images are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
