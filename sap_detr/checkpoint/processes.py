"""What one process does for others, so that all go on or fail together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from detectron2.utils import comm

from ..errors import UserError

Result = TypeVar("Result")


def by_one_process(work: Callable[[], Result], per_machine: bool = False) -> Result:
    """Return the main process's result of `work` in all processes, each of which must call this.

    Args:
        work: called in the main process.
        per_machine: call it in the first process of every machine.

    Raises:
        UserError, FileNotFoundError: in all processes, the first that was raised in one.
    """
    outcome: tuple[Result | None, Exception | None] = (None, None)
    if comm.get_local_rank() == 0 if per_machine else comm.is_main_process():
        try:
            outcome = work(), None
        except (UserError, FileNotFoundError) as error:
            outcome = None, error
    outcomes = comm.all_gather(outcome)
    for _, problem in outcomes:
        if problem is not None:
            raise problem
    return cast(Result, outcomes[0][0])
