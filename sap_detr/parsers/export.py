"""Write a detector to a file that runs elsewhere: torch.export, ONNX or OpenVINO.

    sap-detr export output/run/model_best.safetensors detector.onnx
    sap-detr export detr-r50-e632da11.pth detr.pt2 --config-file detr/detr_r50_500ep
    sap-detr export output/run/model_best.safetensors detector.xml --precision int8 \\
        --calibration data/train --check-images data/val

OUTPUT's suffix says the format: .pt2 for torch.export, .onnx, or .xml for OpenVINO. The file takes
uint8 RGB images (B, 3, H, W) of any batch, height and width, and the sizes (B, 2) of what is no
padding; it gives boxes in pixels, scores and classes, the best first. Class names, the size that
images were resized to, and a checksum of the weights stand in its metadata.

The file is then run and compared with the model: on the images of --check-images, or on drawn ones.
In float32 every detection must be found again within the limits, and with --annotations AP must be
within its limit, too. In other precisions AP alone decides where there are annotations; else 95% of
the detections must be found again. The exit status is 0 if so, 3 if not (the file stays), 2 if what
is asked for can't be done.
"""

from __future__ import annotations

import argparse

from ..arguments import path, positive_int

# As the library has them, which can't be imported here.
PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr export``."""
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help="a .safetensors file that describes its model; with --config-file any checkpoint",
    )
    parser.add_argument(
        "output", metavar="OUTPUT", type=path, help="file to write: .pt2, .onnx or .xml"
    )
    parser.add_argument("--config-file", metavar="FILE", help="a config, or the name of one")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="what the file computes in (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration",
        metavar="PATH",
        help="for int8: images of the kind that will be seen, or a folder of them",
    )
    parser.add_argument(
        "--top-k", type=positive_int, metavar="K", help="most detections (default: the model's)"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="H,W",
        help="take batches of this height and width only (default: any)",
    )
    parser.add_argument(
        "--check-images",
        metavar="PATH",
        help="images, or a folder of them, to compare on (default: drawn ones)",
    )
    parser.add_argument(
        "--annotations",
        type=path,
        metavar="FILE",
        help="COCO annotations of the images to compare on: AP is compared, too",
    )
    parser.add_argument(
        "--max-check-images",
        type=positive_int,
        metavar="N",
        help="compare on so many images at most (default: 20; with --annotations 200, because AP "
        "of a few images changes by a point where nothing is wrong)",
    )
    parser.add_argument(
        "--score-limit",
        type=float,
        metavar="X",
        help="largest difference of scores (default: by precision, 0.0001 for float32)",
    )
    parser.add_argument(
        "--box-limit",
        type=float,
        metavar="PIXELS",
        help="largest difference of boxes (default: by precision, 0.05 for float32)",
    )
    parser.add_argument(
        "--ap-limit",
        type=float,
        metavar="POINTS",
        help="largest difference of AP (default: by precision, 0.1 for float32)",
    )
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config"
    )


def image_size(text: str) -> tuple[int, int]:
    """Read ``H,W``, for ``type=`` of an argument.

    Raises:
        argparse.ArgumentTypeError: if it is something else.
    """
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a height and a width, such as 640,800")
    return int(parts[0]), int(parts[1])
