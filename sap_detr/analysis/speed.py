"""How fast a model infers and trains, in seconds, in units of a ResNet-50, and of a matrix product.

What is compared is measured in turns, see :func:`in_turns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .building import build_without_weights
from .flops import count_detector_flops
from .host_syncs import count_host_syncs
from .reference_body import DESCRIPTION, ReferenceBody
from .tables import WORKLOAD_COLUMNS, Cell, Columns, Record, cell, part_names, record_table
from .timing import (
    Seconds,
    in_turns,
    ratio_of_neighbours,
    run_statistics,
    statistics,
    totals,
)
from .workload import BenchmarkModel, Workload

Runs = Mapping[str, Sequence[Seconds]]

# Side of the square matrices whose product says how fast the device is.
_MATMUL_SIDE = {"cpu": 2560, "cuda": 8192}

SPEED_NOTE = (
    "latency: one image, from the loader's output to detections. Training step: forward pass, "
    "losses, matching, backward pass, and optimizer with zeroing and clipping of gradients. Times "
    "are medians in milliseconds; quartiles in brackets."
)
RELATIVE_NOTE = "Ratios are medians over neighbouring measurements, with quartiles in brackets."
ROOFLINE_NOTE = (
    "Rates of inference on one image: GFLOP/s, with two operations to a multiply-add; in brackets "
    "as a part of the rate of a large matrix product in the same precision, on as many threads. "
    "More than 100% is possible: convolutions may use instructions that the product leaves unused."
)


def speed_record(
    workload: Workload,
    rounds: int = 10,
    warm_up: int = 2,
    relative_to_body: bool = False,
    training: bool = True,
) -> Record:
    """Measure latency, throughput and the training step of a config.

    Args:
        workload: what to measure.
        rounds, warm_up: see :func:`in_turns`.
        relative_to_body: also measure :class:`ReferenceBody`, next to what it is compared with.
        training: whether to measure the training step.

    Returns:
        The identity of the workload; ``classes``, ``data``, ``objects`` per image, ``rounds``;
        ``inference`` and ``step``, see :func:`run_statistics`; ``images_per_second`` of
        inference in batches; ``relative`` to the body: ``inference``, ``step``, and seconds of the
        ``body_forward`` and ``body_step``; ``roofline``, see :func:`roofline`; ``host_syncs`` of a
        training step.

    Raises:
        FileNotFoundError, ConfigError: see :class:`BenchmarkModel`.
    """
    benchmark = BenchmarkModel(workload)
    runs = in_turns(_measured(benchmark, relative_to_body, training), rounds, warm_up)
    record = {
        **workload.identity,
        "classes": benchmark.classes,
        "data": workload.images if training else None,
        "objects": workload.num_objects,
        "rounds": rounds,
        **summary(runs, workload.batch),
    }
    # On the meta device, and without compiling.
    counted, _ = build_without_weights(workload.config, workload.num_classes, workload.overrides)
    macs = count_detector_flops(counted, workload.size, all_layers=False).by_part()
    record["roofline"] = roofline(runs, macs, 2 * _MATMUL_SIDE[benchmark.device.type] ** 3)
    if training:
        trainer = benchmark.trainer()
        trainer.run_step()
        syncs = count_host_syncs(trainer.run_step, benchmark.device, trainer.optimizer)
        record["host_syncs"] = syncs
    return record


def _measured(
    benchmark: BenchmarkModel, relative_to_body: bool, training: bool
) -> dict[str, Callable[[], Seconds]]:
    """Return what is measured in a round, ordered so that what is compared stands together."""
    batch, device, timer = benchmark.workload.batch, benchmark.device, benchmark.timer
    image, images = benchmark.images(1), benchmark.images(batch)
    matmul = _matmul(device, benchmark.workload.dtype)
    runs = {"matmul": lambda: timer.run(matmul)}
    runs["inference"] = benchmark.timed("inference", lambda: benchmark.infer(image))
    if relative_to_body:
        body = ReferenceBody().to(device)
        single, several = _pixels(image, device), _pixels(images, device)
        runs["body_forward"] = lambda: timer.run(lambda: body.infer(single))
    if batch > 1:
        runs["batch"] = benchmark.timed("inference", lambda: benchmark.infer(images))
    if training:
        runs["step"] = benchmark.timed("training", benchmark.trainer().run_step)
        if relative_to_body:
            runs["body_step"] = lambda: timer.run(lambda: body.train_step(several))
    return runs


def _pixels(images: list[dict[str, Any]], device: torch.device) -> Tensor:
    """Images (B, 3, H, W) for the body, in the range that normalisation gives."""
    return torch.stack([inputs["image"] for inputs in images]).to(device).float() / 58 - 2


def _matmul(device: torch.device, dtype: str) -> Callable[[], Tensor]:
    side = _MATMUL_SIDE[device.type]
    a, b = (torch.rand(side, side, device=device, dtype=getattr(torch, dtype)) for _ in "ab")
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def summary(runs: Runs, batch: int) -> Record:
    """Return the figures of a speed record that come from measured times.

    Args:
        runs: seconds by part of every round of ``inference``, and where measured of ``batch``,
            ``step``, ``body_forward`` and ``body_step``.
        batch: images of a batch and of a step.
    """
    record: Record = {"inference": run_statistics(runs["inference"])}
    batches = runs["batch" if "batch" in runs else "inference"]
    record["images_per_second"] = batch / statistics(totals(batches))["median"]
    if "step" in runs:
        record["step"] = run_statistics(runs["step"])
    relative: Record = {}
    for name, body in (("inference", "body_forward"), ("step", "body_step")):
        if name in runs and body in runs:
            relative[name] = ratio_of_neighbours(runs[name], runs[body])
            relative[body] = run_statistics(runs[body])
    if relative:
        record["relative"] = relative
    return record


def roofline(runs: Runs, macs: Mapping[str, float], matmul_flop: float) -> Record:
    """How near inference comes to the rate of a large matrix product.

    Args:
        runs: seconds by part of every round of ``inference`` and ``matmul``.
        macs: multiply-adds of inference by part.
        matmul_flop: operations of one ``matmul``.

    Returns:
        ``matmul``, the rate of the product in operations per second, ``total`` and ``parts``: each
        with ``rate``, and ``share``, the median over all rounds of the rate as a part of the
        product's next to it.
    """
    products = totals(runs["matmul"])

    def rates(seconds: Sequence[float], part_macs: float) -> dict[str, float]:
        shares = [
            2 * part_macs / own / (matmul_flop / product)
            for own, product in zip(seconds, products, strict=True)
        ]
        return {
            "rate": 2 * part_macs / statistics(seconds)["median"],
            "share": statistics(shares)["median"],
        }

    measured = runs["inference"]
    parts = [name for name, value in macs.items() if value and all(name in m for m in measured)]
    return {
        "matmul": matmul_flop / statistics(products)["median"],
        "total": rates(totals(measured), sum(macs.values())),
        "parts": {name: rates([m[name] for m in measured], macs[name]) for name in parts},
    }


def speed_report(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`speed_record` returned; ``tablefmt`` is tabulate's."""
    blocks = [record_table(records, _inference_columns(records), tablefmt, text_columns=3)]
    trained = [record for record in records if "step" in record]
    if trained:
        blocks.append(record_table(trained, _step_columns(trained), tablefmt, text_columns=3))
    blocks.append(SPEED_NOTE)
    compared = [record for record in records if "relative" in record]
    if compared:
        blocks.append(record_table(compared, _RELATIVE_COLUMNS, tablefmt, text_columns=3))
        blocks.append(f"{RELATIVE_NOTE} {DESCRIPTION}")
    blocks.append(record_table(records, _roofline_columns(records), tablefmt, text_columns=3))
    blocks.append(ROOFLINE_NOTE)
    blocks += dict.fromkeys(_syncs_note(record) for record in trained)
    return "\n\n".join(blocks)


def _inference_columns(records: Sequence[Record]) -> Columns:
    names = part_names(record["inference"]["parts"] for record in records)
    return {
        **WORKLOAD_COLUMNS,
        "latency": _quartiles("inference", scale=1e3, digits=1),
        "p90": _milliseconds("inference", "p90"),
        "images/s (batch)": lambda r: f"{r['images_per_second']:.2f} ({r['batch']})",
        **{name: _milliseconds("inference", "parts", name) for name in names},
    }


def _step_columns(records: Sequence[Record]) -> Columns:
    names = part_names(record["step"]["parts"] for record in records)
    order = ("data", "forward", "matching", "losses", "backward", "optimizer")
    return {
        **WORKLOAD_COLUMNS,
        "batch": lambda record: f"{record['batch']} {record['data']}",
        "training step": _quartiles("step", scale=1e3, digits=1),
        "p90": _milliseconds("step", "p90"),
        **{name: _milliseconds("step", "parts", name) for name in order if name in names},
    }


def _roofline_columns(records: Sequence[Record]) -> Columns:
    names = part_names(record["roofline"]["parts"] for record in records)
    return {
        **WORKLOAD_COLUMNS,
        "matrix product": cell("roofline", "matmul", form=lambda rate: f"{rate / 1e9:.0f}"),
        "model": _rate("total"),
        **{name: _rate("parts", name) for name in names},
    }


def _milliseconds(*path: str) -> Cell:
    return cell(*path, form=lambda seconds: f"{seconds * 1e3:.1f}")


def _quartiles(*path: str, scale: float, digits: int) -> Cell:
    def form(figures: Mapping[str, float]) -> str:
        low, median, high = (f"{figures[q] * scale:.{digits}f}" for q in ("low", "median", "high"))
        return f"{median} ({low}..{high})"

    return cell(*path, form=form)


def _rate(*path: str) -> Cell:
    return cell("roofline", *path, form=lambda x: f"{x['rate'] / 1e9:.0f} ({x['share']:.0%})")


_RELATIVE_COLUMNS: Columns = {
    **WORKLOAD_COLUMNS,
    "batch": cell("batch"),
    "body forward": _milliseconds("relative", "body_forward", "median"),
    "inference / body forward": _quartiles("relative", "inference", scale=1, digits=2),
    "body forward+backward": _milliseconds("relative", "body_step", "median"),
    "step / body forward+backward": _quartiles("relative", "step", scale=1, digits=2),
}


def _syncs_note(record: Record) -> str:
    syncs = record["host_syncs"]
    listed = ", ".join(f"{times} x {name}" for name, times in syncs.items()) or "none"
    return f"{record['config']}: waits for the device per training step: {listed}"
