"""Types of command line arguments."""

from __future__ import annotations

import argparse


def positive_int(text: str) -> int:
    """Read a whole number above 0, for ``type=`` of an argument.

    Raises:
        argparse.ArgumentTypeError: if it is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
