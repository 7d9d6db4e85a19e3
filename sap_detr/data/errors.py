"""What is raised about data that can't be used."""

from __future__ import annotations


class DatasetError(ValueError):
    """A data set can't be used as it is. The message says what is wrong, where, and what to do."""


class BadImageError(DatasetError):
    """An image file can't be used.

    Args:
        message: as of ``DatasetError``.
        file_name: the file.
        kind: what is wrong with files of this kind, for counting.
        reason: what is wrong with this one.
        remedy: what to do.
    """

    def __init__(
        self,
        message: str,
        file_name: str = "",
        kind: str = "",
        reason: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(message)
        self.file_name = file_name
        self.kind = kind
        self.reason = reason
        self.remedy = remedy

    @classmethod
    def of_file(cls, file_name: str, kind: str, reason: str, remedy: str) -> BadImageError:
        """With a message made of the parts."""
        message = f"{file_name}: can't be used as an image: {reason}; {remedy}"
        return cls(message, file_name, kind, reason, remedy)
