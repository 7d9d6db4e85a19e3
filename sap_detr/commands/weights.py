"""List the published files of weights that are known here."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from ..published_weights import PUBLISHED


class UnknownWeightsError(LookupError):
    """No file is known of what was asked for."""


USER_ERRORS = (UnknownWeightsError,)


def run(args: argparse.Namespace) -> int:
    """Print a table.

    Raises:
        UnknownWeightsError: if no file or config has what is looked for in its name.
    """
    unknown = "unknown"
    rows = [
        {
            "config": known.config,
            "file": known.file,
            "MB": known.megabytes or unknown,
            "SHA-256": f"{known.sha256}..." if known.sha256 else unknown,
            "where": known.where,
        }
        for known in PUBLISHED
        if args.part in known.config or args.part in known.file
    ]
    if not rows:
        raise UnknownWeightsError(
            f"no published file is known for {args.part!r}: leave it out to see all"
        )
    print(tabulate(rows, headers="keys", disable_numparse=True))
    return 0
