"""Where the time goes: the most expensive operators and modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from .report import Record, format_table
from .speed import workload_cells
from .timing import PartTimer, clock_of, split_statistics
from .workload import Subject, Workload

PROFILE_NOTE = (
    "Operators: time in themselves, without those that they call. Modules: time in the forward "
    "pass, without that of modules in the table below them; layers of one kind are added up. Hooks "
    "and profiler make everything a little slower."
)


def profile_record(workload: Workload, mode: str, depth: int = 4, rounds: int = 3) -> Record:
    """Profiles inference on one image, or a training step.

    Args:
        workload: what runs.
        mode: "inference" or "training".
        depth: of the modules, see :func:`fold`.
        rounds: how often it is run: times of modules are medians, those of operators means.

    Returns:
        The identity of the workload, ``mode``, ``operators`` and ``modules``: lists of ``name``,
        ``calls`` (operators only), ``seconds``, and ``share`` of the whole, the longest first.
    """
    subject = Subject(workload)
    timer = PartTimer(clock_of(subject.device))
    # Timers inside of a compiled network would break it into pieces.
    modules = subject.parts if subject.compiled else modules_down_to(subject.model, depth)
    if mode == "training":
        run: Callable[[], object] = subject.trainer(timer).run_step
        parts = [*subject.training_parts, *modules]
        own = "optimizer"
    else:
        subject.model.eval()
        images = subject.images(1)
        run = lambda: subject.infer(images)  # noqa: E731
        parts, own = modules, subject.rest
    timer.run(run)
    with timer.follow(parts):
        splits = [timer.run(run, own) for _ in range(rounds)]
    seconds = split_statistics(splits)["parts"]
    return {
        **workload.identity,
        "mode": mode,
        "operators": operator_times(run, subject.device, rounds),
        "modules": _ranked([{"name": name, "seconds": s} for name, s in seconds.items()]),
    }


def operator_times(
    run: Callable[[], object], device: torch.device, rounds: int = 1
) -> list[Record]:
    """Return the time in each operator, without what it calls; on a GPU, of its kernels there.

    Args:
        run: what is looked at.
        device: where it computes.
        rounds: how often it is run.

    Returns:
        ``name``, ``calls``, ``seconds`` and ``share`` of each, for one run, the longest first.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(rounds):
            run()
        if on_gpu:
            torch.cuda.synchronize(device)
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [
        {
            "name": e.key,
            "calls": e.count // rounds,
            "seconds": getattr(e, attribute) / rounds / 1e6,
        }
        for e in profiler.key_averages()
    ]
    return _ranked([row for row in rows if row["seconds"] > 0])


def modules_down_to(model: nn.Module, depth: int) -> list[tuple[str, nn.Module]]:
    """Modules whose dotted names have at most ``depth`` pieces, under their folded names.

    The criterion is left out: losses and matching are parts of their own.
    """
    return [
        (fold(name), module)
        for name, module in model.named_modules()
        if name and name.count(".") < depth and name.partition(".")[0] != "criterion"
    ]


def fold(name: str) -> str:
    """One name for all layers: ``encoder.layers.3.norm1`` is ``encoder.layers.*.norm1``."""
    return ".".join("*" if piece.isdigit() else piece for piece in name.split("."))


def _ranked(rows: list[Record]) -> list[Record]:
    whole = sum(row["seconds"] for row in rows)
    ranked = sorted(rows, key=lambda row: -row["seconds"])
    return [{**row, "share": row["seconds"] / whole} for row in ranked]


def profile_report(records: Sequence[Record], top: int = 20, tablefmt: str = "simple") -> str:
    """Format what :func:`profile_record` returned; ``tablefmt`` is tabulate's.

    Args:
        records: the records.
        top: how many operators and modules to show.
        tablefmt: tabulate's.
    """
    blocks = []
    for record in records:
        blocks.append(", ".join([*workload_cells(record), record["mode"]]))
        for kind in ("operators", "modules"):
            columns = ["calls"] if kind == "operators" else []
            rows = [
                [
                    row["name"],
                    *(str(row[column]) for column in columns),
                    f"{row['seconds'] * 1e3:.1f}",
                    f"{row['share']:.1%}",
                ]
                for row in record[kind][:top]
            ]
            blocks.append(format_table(rows, [kind, *columns, "ms", "share"], tablefmt))
    return "\n\n".join([*blocks, PROFILE_NOTE])
