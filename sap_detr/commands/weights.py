"""List the weights that come along or are known here, and fetch published ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from ..published_weights import PUBLISHED
from ..small_models import small_models
from ..weights_files import (
    WeightsError,
    fetch,
    find_weights,
    how_to_get,
    published,
    weights_folder,
)


def run(args: argparse.Namespace) -> int:
    """Print a table, or the path of a file.

    Raises:
        WeightsError: nothing has what is looked for in its name, or it can't be fetched.
    """
    if args.action == "get":
        print(get(args.name, args.folder))
    else:
        print(table(getattr(args, "part", "")))
    return 0


def get(name: str, folder: Path | None = None) -> Path:
    """Return the file of weights, which is fetched if it is not there.

    Args:
        name: of a small model, of a published file, or of a config.
        folder: where to put it; None for the folder of all weights.

    Raises:
        WeightsError: it can't be had like that; the message says what to do.
    """
    known = published(name)
    if known is not None:
        return fetch(known, folder or weights_folder())
    file = find_weights(name)
    if not file.is_file():
        raise WeightsError(how_to_get(name))
    return file


def table(part: str = "") -> str:
    """Return a table of weights.

    Args:
        part: of the name of a file or config.

    Raises:
        WeightsError: nothing has that in its name.
    """
    unknown = "unknown"
    rows: list[tuple[str, ...]] = []
    for model in small_models():
        training = model.training()
        megabytes = f"{model.file.stat().st_size / 1e6:.1f}"
        changed = any(change.startswith("model.") for change in training["changes"])
        config = training["config"] + (", changed as the file says" if changed else "")
        where = f"comes along: shapes, AP {training['AP']:.1f}"
        rows.append((model.name, config, megabytes, "", where))
    for known in PUBLISHED:
        digits = f"{known.sha256}..." if known.sha256 else unknown
        where = "sap-detr weights get" if known.address else known.where
        rows.append((known.name, known.config, str(known.megabytes or unknown), digits, where))
    found = [row for row in rows if part in row[0] or part in row[1]]
    if not found:
        raise WeightsError(how_to_get(part))
    columns = ("name", "config", "MB", "SHA-256", "where")
    return str(tabulate(found, headers=columns, disable_numparse=True))
