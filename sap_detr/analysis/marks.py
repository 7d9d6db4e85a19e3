"""Blocks of a document that the benchmark writes, each between two marks with its name."""

from __future__ import annotations

import re
from collections.abc import Mapping

_MARK = re.compile(r"<!-- benchmark:(?P<name>[a-z]+):(?P<side>begin|end) -->\n?")
_LIKE_A_MARK = re.compile(r"<!-- *benchmark\b.*")


class MarkError(ValueError):
    """The marks of a document are not pairs."""


def block_marks(name: str) -> tuple[str, str]:
    """Return the lines before and after a block."""
    return f"<!-- benchmark:{name}:begin -->", f"<!-- benchmark:{name}:end -->"


def marked_blocks(text: str) -> dict[str, str]:
    """Name of each block of a document, and what stands in it.

    Raises:
        MarkError: if there is none, or if marks are not pairs, or a name comes twice.
    """
    return {name: text[start:end].strip("\n") for name, (start, end) in _spans(text).items()}


def replace_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """Return the document with other blocks.

    Args:
        text: the document.
        blocks: for all names of :func:`marked_blocks`, what shall stand there.

    Raises:
        MarkError: see :func:`marked_blocks`.
    """
    for name, (start, end) in sorted(_spans(text).items(), key=lambda item: -item[1][0]):
        text = f"{text[:start]}\n{blocks[name]}\n\n{text[end:]}"
    return text


def _spans(text: str) -> dict[str, tuple[int, int]]:
    """Name of each block to where it starts and ends in the text."""
    for found in _LIKE_A_MARK.finditer(text):
        if not _MARK.match(text, found.start()):
            raise MarkError(f"{found.group()} is no mark, such as {block_marks('NAME')[0]}")
    marks = list(_MARK.finditer(text))
    if not marks:
        raise MarkError(f"there must be a line {block_marks('NAME')[0]}")
    if len(marks) % 2:
        raise MarkError(f"the mark {marks[-1].group().strip()} has no partner")
    spans: dict[str, tuple[int, int]] = {}
    for begin, end in zip(marks[::2], marks[1::2], strict=True):
        name = begin["name"]
        if (begin["side"], end["side"], end["name"]) != ("begin", "end", name) or name in spans:
            raise MarkError(
                f"there must be one {block_marks(name)[0]} and one {block_marks(name)[1]} after it"
            )
        spans[name] = (begin.end(), end.start())
    return spans
