"""Train what a config describes."""

from __future__ import annotations

from ..engine.main import run_command as run

__all__ = ["USER_ERRORS", "run"]

# One process of several must not tell what all found, so that telling is left to the engine.
USER_ERRORS: tuple[type[Exception], ...] = ()
