"""List the configs that come with the package, or print one with all its keys.

    sap-detr configs list
    sap-detr configs list dino
    sap-detr configs show sap_detr/sap_detr_r50_50ep.py
    sap-detr configs show --key dataset sap_detr/sap_detr_r50_custom.py dataset.folder=photos

A config can be changed as in `sap-detr train`: what is printed is what would be trained.
"""

from __future__ import annotations

import argparse

from .train import add_overrides


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr configs``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show")
    listed = actions.add_parser("list", help="print the names", description=__doc__)
    listed.add_argument("part", nargs="?", default="", metavar="TEXT", help="part of the names")
    shown = actions.add_parser("show", help="print a config as YAML", description=__doc__)
    shown.add_argument("config_file", metavar="NAME", help="a config, or the name of one")
    shown.add_argument("--key", metavar="KEY", help="only this part, such as model.decoder")
    add_overrides(shown)
