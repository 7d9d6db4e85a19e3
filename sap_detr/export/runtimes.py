"""How fast exported files run, measured in turns with the model itself, on random weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

from ..analysis import BenchmarkModel, Workload
from ..analysis.memory import in_new_process, reset_peak_resident, resident
from ..analysis.tables import Columns, Record, cell, record_table
from ..analysis.timing import PartTimer, in_turns, ratio_of_neighbours, statistics, totals
from ..data import build_test_augmentations
from ..detector import Detector
from ..modeling import DetectionTransformer
from .check import batch_of_noise, run_eagerly
from .deployable import Deployable
from .formats import FORMATS, open_exported
from .metadata import Metadata
from .trace import trace

_SUFFIXES = {"pt2": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
# Of which int8 takes the ranges of numbers.
_CALIBRATION_IMAGES = 4

RUNTIME_NOTE = (
    "In turns with the eager model, from pixels to detections of one image. Times are medians in "
    "milliseconds; how many times as fast as eager is the median over neighbouring measurements, "
    "with quartiles in brackets. MiB: what the process needs more, to load it and to run it."
)


def runtime_record(
    workload: Workload, runtimes: Sequence[str], threads: int, rounds: int, warm_up: int = 2
) -> Record:
    """Export a config with random weights, and measure the files beside the model.

    Args:
        workload: config, size and batch; on the CPU in float32.
        runtimes: suffix and precision, such as "onnx-float32".
        threads: of each of them.
        rounds, warm_up: see :func:`sap_detr.analysis.in_turns`.

    Returns:
        The identity of the workload, ``rounds`` and ``runtimes``: for each, and for ``eager``,
        ``seconds`` (:func:`statistics`), ``times_as_fast`` (of the ratios of neighbours), ``bytes``
        of the file, and ``memory`` in bytes.

    Raises:
        FileNotFoundError, ConfigError: see :class:`BenchmarkModel`.
        ExportError: if the config can't be exported, or a package is missing.
        MeasureError: if the process that measures memory fails.
    """
    for name in runtimes:
        suffix, precision = _parts(name)
        FORMATS[suffix].require(precision)
    model = cast(DetectionTransformer, BenchmarkModel(workload).model).eval()
    detector = Detector.from_model(model, build_test_augmentations())
    module = Deployable(model).eval()
    program = trace(module)
    batch = batch_of_noise(workload.batch, workload.size)
    calibration = [batch_of_noise(1, workload.size, seed) for seed in range(_CALIBRATION_IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in runtimes:
            suffix, precision = _parts(name)
            files[name] = Path(folder, name, f"model{suffix}")
            files[name].parent.mkdir()
            metadata = Metadata.of(detector, precision, None, module.smallest_side)
            examples = calibration if precision == "int8" else []
            FORMATS[suffix].write(program, metadata, files[name], examples)
        timed = PartTimer(time.perf_counter).run
        runs = {"eager": partial(timed, partial(run_eagerly, model, *batch))}
        for name, file in files.items():
            runs[name] = partial(timed, partial(open_exported(file, threads)[0], *batch))
        seconds = in_turns(runs, rounds, warm_up)
        record = {**workload.identity, "threads": threads, "rounds": rounds}
        record["runtimes"] = {
            name: {
                "seconds": statistics(totals(of_runtime)),
                "times_as_fast": ratio_of_neighbours(seconds["eager"], of_runtime),
                "bytes": _file_size(files[name]) if name in files else None,
                "memory": _memory(workload, files.get(name), threads),
            }
            for name, of_runtime in seconds.items()
        }
    return record


def runtime_report(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`runtime_record` returned; ``tablefmt`` is tabulate's."""
    rows = [
        {"config": record["config"], "runtime": name, **measured}
        for record in records
        for name, measured in record["runtimes"].items()
    ]
    columns: Columns = {
        "config": cell("config"),
        "runtime": cell("runtime"),
        "ms": lambda row: f"{row['seconds']['median'] * 1e3:,.0f}",
        "times as fast": lambda row: "{median:.2f} ({low:.2f} to {high:.2f})".format(
            **row["times_as_fast"]
        ),
        "file, MB": lambda row: "" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.0f}",
        "MiB": lambda row: f"{row['memory'] / 2**20:,.0f}",
    }
    return f"{record_table(rows, columns, tablefmt, text_columns=2)}\n\n{RUNTIME_NOTE}"


def _parts(name: str) -> tuple[str, str]:
    kind, _, precision = name.partition("-")
    return _SUFFIXES[kind], precision


def _file_size(file: Path) -> int:
    """Return the bytes of a file, and of what lies beside it."""
    return sum(part.stat().st_size for part in file.parent.iterdir())


def _memory(workload: Workload, file: Path | None, threads: int) -> int:
    name = workload.config if file is None else file.name
    measure = partial(_peak_memory, workload, file, threads)
    return in_new_process(f"the memory of {name}", measure)


def _peak_memory(workload: Workload, file: Path | None, threads: int) -> int:
    """Return how many bytes this process needs more, at most, to load something and to run it."""
    import torch

    torch.set_num_threads(threads)
    batch = batch_of_noise(workload.batch, workload.size)
    before = resident()
    reset_peak_resident()
    if file is None:
        model = cast(DetectionTransformer, BenchmarkModel(workload).model).eval()
        run: Callable[[], object] = partial(run_eagerly, model, *batch)
    else:
        run = partial(open_exported(file, threads)[0], *batch)
    for _ in range(2):
        run()
    return resident(peak=True) - before
