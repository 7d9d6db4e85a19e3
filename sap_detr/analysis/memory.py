"""How much memory inference and training take, each measured in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from ..errors import UserError
from .tables import WORKLOAD_COLUMNS, Columns, Record, cell, mebibytes, record_table
from .workload import MODES, BenchmarkModel, Workload

T = TypeVar("T")

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

# The first step makes the state of the optimizer, the second has it from the start.
_REPETITIONS = 2


class MeasureError(UserError, RuntimeError):
    """A process that was to measure something failed."""


def memory_record(workload: Workload, threads: int | None = None) -> Record:
    """Measure the largest memory of inference on one image, and of training steps.

    Args:
        workload: what to measure, on random images.
        threads: of torch in the measuring process; None for its default.

    Returns:
        The identity of the workload, and for ``inference`` and ``training`` what
        :func:`peak_memory` says.

    Raises:
        MeasureError: if a measuring process fails; the message says how.
    """
    measured = {
        mode: in_new_process(
            f"{mode} of {workload.config}", partial(peak_memory, workload, mode, threads)
        )
        for mode in MODES
    }
    return {**workload.identity, "device": workload.device, **measured}


def in_new_process(what: str, measure: Callable[[], T]) -> T:
    """Run a function in a process that does nothing else.

    Args:
        what: is measured.
        measure: measures it.

    Raises:
        MeasureError: if it fails; the message says how.
    """
    # A forked process would begin with the memory of this one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        try:
            return process.submit(measure).result()
        except Exception as error:
            raise MeasureError(f"measuring {what} failed: {error}") from error


def peak_memory(workload: Workload, mode: str, threads: int | None = None) -> dict[str, int]:
    """Measure the largest memory of one mode in this process.

    Args:
        workload: what runs.
        mode: "inference" or "training".
        threads: of torch; None for its default.

    Returns:
        Bytes: ``model`` after building it, and ``peak`` while it ran. On the CPU these are resident
        memory, with ``imports``, that before building; on a GPU what was allocated there, with
        ``reserved``, the largest that the allocator held.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    imports = resident()
    benchmark = BenchmarkModel(workload)
    on_gpu = benchmark.device.type == "cuda"
    model = torch.cuda.memory_allocated() if on_gpu else resident()
    run = benchmark.run(mode)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak_resident()
    for _ in range(_REPETITIONS):
        run()
    if on_gpu:
        torch.cuda.synchronize()
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"model": model, "peak": peak, "reserved": reserved}
    return {"imports": imports, "model": model, "peak": resident(peak=True)}


def reset_peak_resident() -> None:
    """Let its peak begin anew where the system allows it."""
    # Elsewhere the peak includes imports and building, which need less than most runs.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident(peak: bool = False) -> int:
    """Return the resident memory of this process in bytes.

    Args:
        peak: return the largest since the start, or the last reset. Where the system says only
            that, it is returned in any case.
    """
    key = "VmHWM" if peak else "VmRSS"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    # Not on Windows.
    import resource

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024


def memory_report(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`memory_record` returned; ``tablefmt`` is tabulate's."""
    blocks = []
    for device in dict.fromkeys(record["device"] for record in records):
        columns: Columns = {
            **WORKLOAD_COLUMNS,
            "batch": cell("batch"),
            **{
                name: cell("training", name, form=mebibytes)
                for name in (("imports", "model") if device == "cpu" else ("model",))
            },
            **{mode: cell(mode, form=_peak) for mode in MODES},
        }
        chosen = [record for record in records if record["device"] == device]
        blocks.append(record_table(chosen, columns, tablefmt, text_columns=3))
        blocks.append(MEMORY_NOTE[device])
    return "\n\n".join(blocks)


def _peak(figures: Mapping[str, int]) -> str:
    other = figures.get("reserved", figures["peak"] - figures["model"])
    return f"{mebibytes(figures['peak'])} ({mebibytes(other)})"
