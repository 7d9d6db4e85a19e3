"""Where the time goes: the most expensive operators and modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from .tables import WORKLOAD_COLUMNS, Record, cell, record_table
from .timing import in_turns, run_statistics
from .workload import BenchmarkModel, Workload

PROFILE_NOTE = (
    "Operators: torch.profiler's table, of all rounds together. Modules: time of one round in the "
    "forward pass, without that of modules in the table below them; layers of one kind are added "
    "up. Hooks and profiler make everything a little slower."
)


def profile_record(
    workload: Workload, mode: str, depth: int = 4, rounds: int = 3, top: int = 20
) -> Record:
    """Profile inference on one image, or a training step.

    Args:
        workload: what runs.
        mode: "inference" or "training".
        depth: of the modules, see :func:`fold`.
        rounds: how often it is run: times of modules are medians, those of operators sums.
        top: rows of the table of operators.

    Returns:
        The identity of the workload, ``mode``, ``rounds``, ``operators``, see
        :func:`operator_table`, and ``modules``: a list of ``name``, ``seconds``, and ``share`` of
        the whole, the longest first.
    """
    benchmark = BenchmarkModel(workload)
    # Timers inside of a compiled network would break it into pieces.
    modules = [] if workload.compiled else modules_down_to(benchmark.model, depth)
    run = benchmark.run(mode)
    measured = in_turns({mode: benchmark.timed(mode, run, modules)}, rounds, warm_up=1)
    seconds = run_statistics(measured[mode])["parts"]
    whole = sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    return {
        **workload.identity,
        "mode": mode,
        "rounds": rounds,
        "operators": operator_table(run, benchmark.device, rounds, top),
        "modules": [{"name": n, "seconds": s, "share": s / whole} for n, s in ranked],
    }


def operator_table(
    run: Callable[[], object], device: torch.device, rounds: int = 1, top: int = 20
) -> str:
    """Return torch.profiler's table of operators, by the time in themselves, the longest first.

    Args:
        run: what is looked at.
        device: where it computes; on a GPU, the time is that of kernels there.
        rounds: how often it is run.
        top: rows.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(rounds):
            run()
        if on_gpu:
            torch.cuda.synchronize(device)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=order, row_limit=top)
    return table


def modules_down_to(model: nn.Module, depth: int) -> list[tuple[str, nn.Module]]:
    """Return modules whose dotted names have at most ``depth`` pieces, under folded names.

    The criterion is left out: losses and matching are parts of their own.
    """
    return [
        (fold(name), module)
        for name, module in model.named_modules()
        if name and name.count(".") < depth and name.partition(".")[0] != "criterion"
    ]


def fold(name: str) -> str:
    """Return one name for all layers: ``encoder.layers.3.norm1`` is ``encoder.layers.*.norm1``."""
    return ".".join("*" if piece.isdigit() else piece for piece in name.split("."))


def profile_report(records: Sequence[Record], tablefmt: str = "simple", top: int = 20) -> str:
    """Format what :func:`profile_record` returned.

    Args:
        records: the records.
        tablefmt: tabulate's, of the modules; "github" puts the operators into a block of code.
        top: how many modules to show.
    """
    blocks = []
    for record in records:
        cells = [text(record) for text in WORKLOAD_COLUMNS.values()]
        blocks.append(", ".join([*cells, record["mode"]]))
        operators = record["operators"].strip()
        blocks.append(f"```\n{operators}\n```" if tablefmt == "github" else operators)
        columns = {
            "modules": cell("name"),
            "ms": cell("seconds", form=lambda seconds: f"{seconds * 1e3:.1f}"),
            "share": cell("share", form="{:.1%}".format),
        }
        blocks.append(record_table(record["modules"][:top], columns, tablefmt))
    return "\n\n".join([*blocks, PROFILE_NOTE])
