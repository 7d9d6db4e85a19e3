"""Install Detectron2 where its official repository cannot be reached or compiled.

    sap-detr install-detectron2
    sap-detr install-detectron2 --sdist detectron2-cdo-0.5.tar.gz        # without a network

A Detectron2 that imports is kept. Otherwise the Python sources of release 0.5 come from PyPI, with
the edits that current versions of their dependencies need. Needs torch and setuptools, but no
compiler and no CUDA.
"""

from __future__ import annotations

import argparse

from ..arguments import path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr install-detectron2``."""
    parser.add_argument("--force", action="store_true", help="replace an installed Detectron2")
    parser.add_argument(
        "--sdist", type=path, metavar="FILE", help="a local copy of the archive from PyPI"
    )
