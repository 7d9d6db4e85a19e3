"""List the published files of weights that are known here, and the configs that they fill.

    sap-detr weights
    sap-detr weights detr_r50

Nothing is downloaded: get a file where it is said to be, and name it with --weights or
train.init_checkpoint. `sha256sum FILE` must begin with the digits shown. "unknown" says that this
package does not know; files of the same methods that are not listed load as well.
"""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr weights``."""
    parser.add_argument(
        "part", nargs="?", default="", metavar="TEXT", help="part of the config's or file's name"
    )
