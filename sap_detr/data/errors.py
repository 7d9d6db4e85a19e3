"""What is raised about data that can't be used."""

from __future__ import annotations


class DatasetError(ValueError):
    """A data set can't be used as it is. The message says what is wrong, where, and what to do."""
