"""Values and lists in messages, cut to a length that can be read."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 100
_repr.maxlong = 30


def shorten(value: Any) -> str:
    """Return the ``repr`` of a value, with what is long or deeply nested left out."""
    return _repr.repr(value)


def listing(items: Iterable[object], most: int = 10, separator: str = ", ") -> str:
    """Join the first items, and count those that are left out: ``a, b and 3 more``.

    Args:
        items: joined as ``str`` gives them.
        most: how many are shown.
        separator: between two of them.
    """
    texts = [str(item) for item in items]
    shown = separator.join(texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"
