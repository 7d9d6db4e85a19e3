"""The command lines of tools: their parser, and types of arguments."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn


def positive_int(text: str) -> int:
    """Read a whole number above 0, for ``type=`` of an argument.

    Raises:
        argparse.ArgumentTypeError: if it is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def path(text: str) -> Path:
    """Read a path, for ``type=`` of an argument.

    Raises:
        argparse.ArgumentTypeError: if it is empty, as a variable of a shell that was not set.
    """
    if not text:
        raise argparse.ArgumentTypeError("an empty text is no path")
    return Path(text)


def replaced_file(
    outputs: Iterable[tuple[str, Path]], inputs: Iterable[tuple[str, Path | None]]
) -> str | None:
    """Say which file that is read, or written under another name, an output would replace.

    Args:
        outputs: what each is, such as "--json", and its path.
        inputs: the same of files that are read; None for those that are not given.

    Returns:
        The mistake in one sentence; None if there is none.
    """
    taken = {path.resolve(): what for what, path in inputs if path is not None}
    for what, path in outputs:
        other = taken.get(path.resolve())
        if other is not None:
            return f"{what} would replace {other}, {path}: name another file"
        taken[path.resolve()] = what
    return None


class ArgumentParser(argparse.ArgumentParser):
    """A parser of a tool: its description is printed as it stands, a mistake told in one line.

    Args:
        prog: the tool's file name.
        description: what it does.
        options: others of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **options: Any):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, formatter_class=formatter, **options)

    def error(self, message: str) -> NoReturn:
        """End the program with exit status 2."""
        self.exit(2, f"error: {' '.join(message.split())}\n")
