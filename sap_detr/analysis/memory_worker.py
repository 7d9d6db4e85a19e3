"""The process that :mod:`sap_detr.analysis.memory` measures in: ``python -m`` with a JSON request.

Prints a JSON object of bytes as its last line.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .workload import Subject, Workload

# The first step makes the state of the optimizer, the second has it from the start.
_REPETITIONS = 2


def measure(workload: Workload, mode: str) -> dict[str, int]:
    """Measures the largest memory of one mode in this process.

    Args:
        workload: what runs.
        mode: "inference" or "training".

    Returns:
        Bytes: ``model`` after building it, and ``peak`` while it ran. On the CPU these are resident
        memory, with ``imports``, that before building; on a GPU what was allocated there, with
        ``reserved``, the largest that the allocator held.
    """
    imports = resident()
    subject = Subject(workload)
    on_gpu = subject.device.type == "cuda"
    figures = {"model": torch.cuda.memory_allocated()} if on_gpu else {"model": resident()}
    run = _run_of(subject, mode)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak_resident()
    for _ in range(_REPETITIONS):
        run()
    if on_gpu:
        torch.cuda.synchronize()
        figures["peak"] = torch.cuda.max_memory_allocated()
        figures["reserved"] = torch.cuda.max_memory_reserved()
        return figures
    return {"imports": imports, **figures, "peak": peak_resident()}


def _run_of(subject: Subject, mode: str) -> Callable[[], object]:
    if mode == "training":
        return subject.trainer().run_step
    images = subject.images(1)
    return lambda: subject.infer(images)


def resident() -> int:
    """Resident memory of this process in bytes; its peak where the system does not say."""
    return _status("VmRSS") or peak_resident()


def peak_resident() -> int:
    """Largest resident memory of this process since its start, or since it was last reset."""
    size = _status("VmHWM")
    if size is not None:
        return size
    # Not on Windows.
    import resource

    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024


def reset_peak_resident() -> None:
    """Lets :func:`peak_resident` begin anew where the system allows it."""
    # Elsewhere the peak includes imports and building, which need less than most runs.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(key: str) -> int | None:
    """Return a size of this process in bytes, as Linux has it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None


def main() -> None:
    """Serve the request on the command line."""
    request = json.loads(sys.argv[1])
    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    given = request["workload"]
    given["overrides"], given["size"] = tuple(given["overrides"]), tuple(given["size"])
    print(json.dumps(measure(Workload(**given), request["mode"])))


if __name__ == "__main__":
    main()
