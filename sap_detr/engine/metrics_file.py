"""Metrics on disk: of runs that are resumed, and of disks that fail."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from detectron2.utils.events import EventWriter

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"


def trim_metrics(path: Path, first_iteration: int) -> None:
    """Remove what a killed run logged beyond its checkpoint, and a line that it left incomplete.

    A resumed run logs these iterations again. The file is changed in place, because Detectron2's
    writer has it open for appending.

    Args:
        path: file with one JSON object per line; it may be missing.
        first_iteration: the iteration that the run goes on with.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _belongs(line, first_iteration)]
        if len(kept) < len(lines):
            with path.open("r+b") as file:
                file.writelines(kept)
                file.truncate()
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("could not trim %s: %s", path, error)


def _belongs(line: bytes, first_iteration: int) -> bool:
    try:
        iteration = json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return False
    return line.endswith(b"\n") and iteration < first_iteration


def read_evaluation(path: Path, iteration: int) -> dict[str, float]:
    """Return the metrics, such as ``bbox/AP``, of an evaluation after an iteration; {} for none."""
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return {}
    found = [record for record in records if record.get("iteration") == iteration]
    return {key: value for record in found for key, value in record.items() if "/" in key}


class ForgivingWriter(EventWriter):  # type: ignore[misc]
    """Let training go on where metrics can't be written, because the disk is full for example.

    Args:
        writer: does the writing.
    """

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer
        self._warned = False

    def write(self) -> None:
        self._try(self._writer.write)

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            if not self._warned:
                logger.warning(
                    f"{type(self._writer).__name__} can't write metrics: {error}. Training goes "
                    "on; some of them will be missing"
                )
            self._warned = True
        else:
            self._warned = False
