"""Reads annotation files: from bytes to parsed json, and its numbers, which may be of any type."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DatasetError


def read_json(json_file: str | os.PathLike[str]) -> Any:
    """Parse a json file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is no json, for instance because it was cut off.
    """
    name = os.fspath(json_file)
    try:
        return json.loads(Path(json_file).read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name}: there is no such annotation file; check the path in the config"
        ) from None
    except (ValueError, RecursionError) as error:
        size = Path(json_file).stat().st_size
        raise DatasetError(
            f"{name}: not valid json, or cut off ({size} bytes; {error}). "
            "Download or export the file again."
        ) from error
    except OSError as error:
        raise DatasetError(f"{name}: can't be read ({error})") from error


def is_plain_utf8(json_file: str | os.PathLike[str]) -> bool:
    """Return whether a json file is in UTF-8 without a byte order mark, as pycocotools needs it."""
    with open(json_file, "rb") as file:
        return json.detect_encoding(file.read(4)) == "utf-8"


def as_integer(value: Any) -> int | None:
    """Return an integer of at most 64 bits (also if written as 3.0), else None."""
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if abs(value) < 2**63 else None


def as_float(value: Any) -> float | None:
    """Return a number as float (infinite if it is too large), else None."""
    if type(value) is float:
        return value
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
