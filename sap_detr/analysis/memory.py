"""How much memory inference and training take, each measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .report import Record, format_table
from .speed import WORKLOAD_HEADERS, workload_cells
from .workload import Workload

MODES = ("inference", "training")

# What a process returns: name to bytes.
Measure = Callable[[Workload, str, int | None], Mapping[str, int]]

MEMORY_NOTE = {
    "cpu": (
        "Largest resident memory of a process that does nothing else, in MiB; in brackets what of "
        "it came with the run. imports and model: resident before anything ran. Training steps "
        "take batches of the size given, inference one image."
    ),
    "cuda": (
        "Largest memory allocated on the GPU, in MiB; in brackets what the allocator reserved. "
        "model: allocated before anything ran. Training steps take batches of the size given, "
        "inference one image."
    ),
}


class MeasureError(RuntimeError):
    """A process that was to measure something failed."""


def memory_record(
    workload: Workload, threads: int | None = None, measure: Measure | None = None
) -> Record:
    """Measures the largest memory of inference on one image, and of training steps.

    Args:
        workload: what to measure, on random images.
        threads: of torch in the measuring process; None for its default.
        measure: runs one mode; by default in a new process.

    Returns:
        The identity of the workload, and for ``inference`` and ``training`` what
        :func:`sap_detr.analysis.memory_worker.measure` says.

    Raises:
        MeasureError: if a measuring process fails; the message has its last words.
    """
    measure = measure or _in_new_process
    return {
        **workload.identity,
        "device": workload.device,
        **{mode: dict(measure(workload, mode, threads)) for mode in MODES},
    }


def _in_new_process(workload: Workload, mode: str, threads: int | None) -> Mapping[str, int]:
    request = json.dumps({"workload": asdict(workload), "mode": mode, "threads": threads})
    result = subprocess.run(
        [sys.executable, "-m", "sap_detr.analysis.memory_worker", request],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        words = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise MeasureError(f"measuring {mode} of {workload.config} failed: {words[-1]}")
    figures: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return figures


def memory_report(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`memory_record` returned; ``tablefmt`` is tabulate's."""
    blocks = []
    for device in dict.fromkeys(record["device"] for record in records):
        chosen = [record for record in records if record["device"] == device]
        rows = [_row(record) for record in chosen]
        headers = [*WORKLOAD_HEADERS, "batch", *_BASELINES[device], *MODES]
        blocks += [format_table(rows, headers, tablefmt, text_columns=3), MEMORY_NOTE[device]]
    return "\n\n".join(blocks)


_BASELINES = {"cpu": ["imports", "model"], "cuda": ["model"]}


def _row(record: Record) -> list[str]:
    baselines = [mebibytes(record["training"][name]) for name in _BASELINES[record["device"]]]
    peaks = []
    for figures in (record[mode] for mode in MODES):
        other = figures.get("reserved", figures["peak"] - figures["model"])
        peaks.append(f"{mebibytes(figures['peak'])} ({mebibytes(other)})")
    return [*workload_cells(record), str(record["batch"]), *baselines, *peaks]


def mebibytes(size: Any) -> str:
    """Bytes as a number of MiB."""
    return f"{size / 2**20:,.0f}"
