"""Write a data set of any format that training reads as a folder in COCO format.

    sap-detr convert-data datasets/yolo datasets/coco
    sap-detr convert-data datasets/voc datasets/coco --val-share 0.2 --copy

Writes train.json with train/ and, if there is one, val.json with val/. Images are linked (both
names then stand for one file) where the disk allows it, and copied otherwise; what was done is
said. Annotations are checked as before a training. A folder that holds anything is not written to.
"""

from __future__ import annotations

import argparse

from ..arguments import path
from .check import add_folder_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr convert-data``."""
    parser.add_argument("folder", type=path, metavar="FROM", help="COCO, YOLO or Pascal VOC")
    parser.add_argument("target", type=path, metavar="TO", help="a new or an empty folder")
    add_folder_options(parser)
    parser.add_argument("--copy", action="store_true", help="copy images in place of linking them")
