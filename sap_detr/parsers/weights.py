"""List the weights that are known here and the configs that they fill, and fetch published ones.

    sap-detr weights list
    sap-detr weights list detr_r50
    sap-detr weights get detr-r50-e632da11

Small models come with the package: name them like a file, as in --weights small_sap_detr. What has
a plain address is fetched, its SHA-256 compared, into the folder that SAP_DETR_CHECKPOINTS names,
or into the user's cache; its path is printed, and its name then stands for it, too. For others it
is said where their authors hand them out. "unknown" says that this package does not know; files of
the same methods that are not listed load as well.
"""

from __future__ import annotations

import argparse

from ..arguments import path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr weights``."""
    actions = parser.add_subparsers(dest="action", metavar="list|get")
    listed = actions.add_parser("list", help="print a table", description=__doc__)
    listed.add_argument(
        "part", nargs="?", default="", metavar="TEXT", help="part of the name or config"
    )
    got = actions.add_parser("get", help="fetch a file", description=__doc__)
    got.add_argument("name", metavar="NAME", help="of a file, or of a config")
    got.add_argument(
        "--folder", type=path, metavar="FOLDER", help="where to put it (default: as said above)"
    )
