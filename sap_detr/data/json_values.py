"""Numbers as annotation files have them, of any type."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


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
