"""What all errors of this package have in common that are told in one line."""

from __future__ import annotations


class UserError(Exception):
    """Something that whoever gave a command can mend: the message says what is wrong and how."""
