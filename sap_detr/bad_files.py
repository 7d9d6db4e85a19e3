"""Go on after a file that can't be used, and tell at the end which these were and why."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

ALL_USED, SOME_USED, NONE_USED = 0, 1, 2


class BadFiles:
    """The files that a command could not use.

    ::

        bad = BadFiles(BadImageError)
        for file in files:
            with bad.skipping(file):
                use(file)  # what follows is left out if it raises BadImageError
        print(bad, file=sys.stderr)

    Args:
        errors: what is wrong with a file, in place of with the command.
        stop_at_first: whether such an error ends the command instead.

    Attributes:
        reasons: what was wrong, by file, in the order of their coming.
    """

    def __init__(self, *errors: type[Exception], stop_at_first: bool = False) -> None:
        self.errors = errors
        self.stop_at_first = stop_at_first
        self.reasons: dict[str, str] = {}

    @contextlib.contextmanager
    def skipping(self, file: str | os.PathLike[str]) -> Iterator[None]:
        """Return a context that an error of the file leaves early, without ending the command.

        Raises:
            Exception: one of ``errors``, if the command is to stop at the first.
        """
        try:
            yield
        except self.errors as error:
            if self.stop_at_first:
                raise
            self.reasons[os.fspath(file)] = " ".join(str(error).split())

    def exit_status(self, num_used: int) -> int:
        """Return 0 if all files were used, 1 if some were, 2 if none was."""
        if not self.reasons:
            return ALL_USED
        return SOME_USED if num_used else NONE_USED

    def __str__(self) -> str:
        """How many there are, and a line for each."""
        count = len(self.reasons)
        files = "1 file" if count == 1 else f"{count} files"
        return "\n".join([f"{files} left out:", *(f"  {x}" for x in self.reasons.values())])
