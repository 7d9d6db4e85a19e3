"""Write a page in which to look at attention, points and boxes, layer by layer and head by head.

    sap-detr view --weights model_best.safetensors --input photo.jpg
    sap-detr view --config-file detr/detr_r50_500ep --weights detr-r50-e632da11.pth \\
        --input photo.jpg other.jpg --output detr.html
    sap-detr view --weights before.safetensors after.safetensors --input photo.jpg

The page has all that it needs inside: it opens from disk, in any browser of the last years, and
needs no network. Two files of weights stand beside each other. A config is needed for weights that
don't describe their model; of two, the second --config-file is for the second weights.

Attention is kept of the best queries of each picture, fewer where the page would be larger than
15 MB. The same numbers in Python: sap_detr.visualization.explain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import path, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr view``."""
    parser.add_argument(
        "--weights", nargs="+", required=True, metavar="FILE", help="one file of weights, or two"
    )
    parser.add_argument(
        "--config-file",
        nargs="+",
        default=[],
        metavar="FILE",
        help="a config, or the name of one, for all weights or for each",
    )
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="PATH", help="images, and folders of images"
    )
    parser.add_argument(
        "--output",
        type=path,
        default=Path("view.html"),
        metavar="FILE",
        help="page to write (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.3,
        help="lowest score of a detection that is listed (default: %(default)s)",
    )
    parser.add_argument(
        "--queries",
        type=positive_int,
        default=20,
        metavar="N",
        help="keep the attention of so many queries of a picture (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the configs"
    )
