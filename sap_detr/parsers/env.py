"""Show what is installed, whether it fits together, and what to do if it does not.

    sap-detr env
    python -m sap_detr.check_env        # the same, where the command is not on the path

Exit status: 1 if there is a problem, else 0.
"""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there is nothing to choose."""
