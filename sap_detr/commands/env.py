"""Show what is installed, whether it fits together, and what to do if it does not."""

from __future__ import annotations

import argparse

from ..check_env import main


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 if there is a problem, else 0."""
    return main()
