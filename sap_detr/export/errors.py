"""What can go wrong before a file is written, and which packages that takes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from ..errors import UserError


class ExportError(UserError, ValueError):
    """What was asked for can't be done; the message says why and what to do."""


def require_packages(names: Sequence[str], extra: str) -> None:
    """Check that packages of an optional extra are installed.

    Args:
        names: what is imported.
        extra: the extra of this package that installs them.

    Raises:
        ExportError: one is missing.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ExportError(
            f"{' and '.join(missing)} not installed: python -m pip install 'sap-detr[{extra}]'"
        )
