"""Check a data set before anything is trained on it.

    sap-detr check --folder datasets/mine
    sap-detr check --folder datasets/mine --full --sheet findings.png --json report.json
    sap-detr check --annotations train.json val.json --images train/ val/ --num-queries 100
    sap-detr check --config-file sap_detr/sap_detr_r50_50ep.py

Finds files that are missing, cut off, no images or of another size than annotated; bad, tiny and
repeated boxes; copies of images, above all in train and val; more objects than the model of a
config has queries; and classes without examples. Counts everything, and shows the first of each.

Changes to the config come behind --opts, such as dataset.folder=FOLDER or dataset.val=NAME.

Exit status: 0 if the data can be trained on, 1 with --strict if there are warnings, 2 if there are
errors, with which training refuses to start, or if the check itself was not possible.
"""

from __future__ import annotations

import argparse
import os

from ..arguments import path, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr check``."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--folder", type=path, metavar="DIR", help="data set in one of the known layouts"
    )
    what.add_argument(
        "--annotations",
        nargs="+",
        type=path,
        metavar="FILE",
        help="annotations in COCO format: of the training split first",
    )
    what.add_argument(
        "--names", nargs="+", metavar="NAME", help="registered data sets, such as coco_2017_train"
    )
    parser.add_argument(
        "--images", nargs="+", type=path, metavar="DIR", help="folder of each of --annotations"
    )
    add_folder_options(parser)
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="a config: its number of queries, and its data sets if none are given",
    )
    parser.add_argument("--num-queries", type=positive_int, metavar="Q", help="of the model")
    parser.add_argument(
        "--pixel-range",
        metavar="RANGE",
        help="what becomes of images of more than 8 bits, as dataloader.pixel_range says it: full "
        "(the default), bits=N, percentile=P, refuse",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="decode all pixels, also of what is trained on: finds more damage and takes longer",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes that read images; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=5,
        metavar="N",
        help="most examples to print of each kind (default: %(default)s)",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if there are warnings")
    parser.add_argument("--json", type=path, metavar="FILE", help="write everything here")
    parser.add_argument("--sheet", type=path, metavar="FILE", help="draw findings here (.png)")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config"
    )


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Add those that say what the splits of a folder are."""
    parser.add_argument("--train", metavar="NAME", help="what the training split is called")
    parser.add_argument("--val", metavar="NAME", help="what the validation split is called")
    parser.add_argument(
        "--format", metavar="NAME", help="coco, yolo or voc, where the folder holds several"
    )
    parser.add_argument(
        "--val-share",
        type=float,
        metavar="X",
        help="as dataset.val_share, without a val split",
    )
