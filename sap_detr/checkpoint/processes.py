"""What one process does for all, so that all go on or fail together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from detectron2.utils import comm

from .safe_load import CheckpointError

Result = TypeVar("Result")


def by_main_process(work: Callable[[], Result]) -> Result:
    """Return the main process's result of `work` in all processes, each of which must call this.

    Raises:
        CheckpointError: in all processes, if it was raised in the main one.
    """
    outcome: tuple[Result | None, str | None] = (None, None)
    if comm.is_main_process():
        try:
            outcome = work(), None
        except CheckpointError as error:
            outcome = None, str(error)
    result, problem = comm.all_gather(outcome)[0]
    if problem is not None:
        raise CheckpointError(problem)
    return cast(Result, result)
