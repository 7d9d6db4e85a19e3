"""What is raised about data that can't be used."""

from __future__ import annotations

from ..errors import UserError


class DatasetError(UserError, ValueError):
    """A data set can't be used as it is. The message says what is wrong, where, and what to do."""
