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
from .report import Record, format_table
from .timing import (
    PartTimer,
    Split,
    clock_of,
    in_turns,
    ratio_of_splits,
    split_statistics,
    statistics,
)
from .workload import Subject, Workload

Splits = Mapping[str, Sequence[Split]]

# Side of the square matrices whose product says how fast the device is.
_MATMUL_SIDE = {"cpu": 2560, "cuda": 8192}

SPEED_NOTE = (
    "latency: one image, from the loader's output to detections. Training step: forward pass, "
    "losses, matching, backward pass, and optimizer with zeroing and clipping of gradients. Times "
    "are medians in milliseconds; quartiles in brackets."
)
RELATIVE_NOTE = (
    "Ratios are medians over neighbouring measurements, with quartiles in brackets; the second is "
    "that of the two fastest. The last, of the time that the host's processors worked, hardly "
    "changes with other work on the machine, but says little with several threads or a GPU."
)
ROOFLINE_NOTE = (
    "Rates of inference on one image: GFLOP/s, with two operations to a multiply-add; in brackets "
    "as a part of the rate of a large matrix product in the same precision, on as many threads."
)


def speed_record(
    workload: Workload,
    rounds: int = 10,
    warm_up: int = 2,
    relative_to_body: bool = False,
    training: bool = True,
) -> Record:
    """Measures latency, throughput and the training step of a config.

    Args:
        workload: what to measure.
        rounds, warm_up: see :func:`in_turns`.
        relative_to_body: also measure :class:`ReferenceBody`, next to what it is compared with.
        training: whether to measure the training step.

    Returns:
        The identity of the workload; ``classes``, ``data``, ``objects`` per image, ``rounds``;
        ``inference`` and ``step``, see :func:`split_statistics`; ``images_per_second`` of
        inference in batches; ``relative`` to the body: ``inference``, ``step``, and seconds of the
        ``body_forward`` and ``body_step``; ``roofline``, see :func:`roofline`; ``host_syncs`` of a
        training step.

    Raises:
        FileNotFoundError, ConfigError: see :class:`Subject`.
    """
    subject = Subject(workload)
    timer = PartTimer(clock_of(subject.device))
    runs = _runs(subject, timer, relative_to_body, training)
    splits = in_turns(runs, rounds, warm_up)
    record = {
        **workload.identity,
        "classes": subject.classes,
        "data": subject.data if training else None,
        "objects": workload.num_objects,
        "rounds": rounds,
        **summary(splits, workload.batch),
    }
    macs = _inference_macs(workload)
    record["roofline"] = roofline(splits, macs, 2 * _matmul_side(subject.device) ** 3)
    if training:
        trainer = subject.trainer()
        trainer.run_step()
        record["host_syncs"] = count_host_syncs(trainer.run_step, subject.device, trainer.optimizer)
    return record


def _runs(
    subject: Subject, timer: PartTimer, relative_to_body: bool, training: bool
) -> dict[str, Callable[[], Split]]:
    """Return what is measured in a round, ordered so that what is compared stands together."""
    batch = subject.workload.batch
    image, images = subject.images(1), subject.images(batch)

    # Changing the mode of a small model takes as long as some of its parts.
    def infer(inputs: list[dict[str, Any]]) -> Split:
        subject.model.eval()
        with timer.follow(subject.parts):
            return timer.run(lambda: subject.infer(inputs), own=subject.rest)

    runs: dict[str, Callable[[], Split]] = {}
    runs["matmul"] = _matmul_run(timer, subject.device, subject.workload.dtype)
    runs["inference"] = lambda: infer(image)
    if relative_to_body:
        body = ReferenceBody().to(subject.device)
        single, several = _pixels(image, subject.device), _pixels(images, subject.device)
        runs["body_forward"] = lambda: timer.run(lambda: body.infer(single))
    if batch > 1:
        runs["batch"] = lambda: infer(images)
    if training:
        trainer = subject.trainer(timer)

        def step() -> Split:
            subject.model.train()
            with timer.follow(subject.training_parts):
                return timer.run(trainer.run_step, own="optimizer")

        runs["step"] = step
        if relative_to_body:
            runs["body_step"] = lambda: timer.run(lambda: body.train_step(several))
    return runs


def _pixels(images: list[dict[str, Any]], device: torch.device) -> Tensor:
    """Images (B, 3, H, W) for the body, in the range that normalisation gives."""
    return torch.stack([inputs["image"] for inputs in images]).to(device).float() / 58 - 2


def _matmul_side(device: torch.device) -> int:
    return _MATMUL_SIDE[device.type]


def _matmul_run(timer: PartTimer, device: torch.device, dtype: str) -> Callable[[], Split]:
    side = _matmul_side(device)
    a, b = (torch.rand(side, side, device=device, dtype=getattr(torch, dtype)) for _ in "ab")
    out = torch.empty_like(a)
    return lambda: timer.run(lambda: torch.mm(a, b, out=out))


def _inference_macs(workload: Workload) -> dict[str, float]:
    """Multiply-adds of inference on one image by part; "" is what is in none."""
    model, _ = build_without_weights(workload.config, workload.num_classes, workload.overrides)
    return count_detector_flops(model, workload.size, all_layers=False).by_part()


def summary(splits: Splits, batch: int) -> Record:
    """Return the figures of a speed record that come from measured times.

    Args:
        splits: seconds by part of every round of ``inference``, and where measured of ``batch``,
            ``step``, ``body_forward`` and ``body_step``.
        batch: images of a batch and of a step.
    """
    record: Record = {"inference": split_statistics(splits["inference"])}
    batches = splits["batch" if "batch" in splits else "inference"]
    record["images_per_second"] = batch / statistics([s.total for s in batches])["median"]
    if "step" in splits:
        record["step"] = split_statistics(splits["step"])
    relative: Record = {}
    for name, body in (("inference", "body_forward"), ("step", "body_step")):
        if name in splits and body in splits:
            relative[name] = ratio_of_splits(splits[name], splits[body])
            relative[body] = split_statistics(splits[body])
    if relative:
        record["relative"] = relative
    return record


def roofline(splits: Splits, macs: Mapping[str, float], matmul_flop: float) -> Record:
    """How near inference comes to the rate of a large matrix product.

    Args:
        splits: seconds by part of every round of ``inference`` and ``matmul``.
        macs: multiply-adds of inference by part.
        matmul_flop: operations of one ``matmul``.

    Returns:
        ``matmul``, the rate of the product in operations per second, ``total`` and ``parts``: each
        with ``rate``, and ``share``, the median over all rounds of the rate as a part of the
        product's next to it.
    """
    products = [split.total for split in splits["matmul"]]

    def rates(seconds: Sequence[float], part_macs: float) -> dict[str, float]:
        shares = [
            2 * part_macs / own / (matmul_flop / product)
            for own, product in zip(seconds, products, strict=True)
        ]
        return {
            "rate": 2 * part_macs / statistics(seconds)["median"],
            "share": statistics(shares)["median"],
        }

    measured = splits["inference"]
    parts = [
        name for name, value in macs.items() if value and all(name in s.parts for s in measured)
    ]
    return {
        "matmul": matmul_flop / statistics(products)["median"],
        "total": rates([s.total for s in measured], sum(macs.values())),
        "parts": {name: rates([s.parts[name] for s in measured], macs[name]) for name in parts},
    }


def speed_report(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`speed_record` returned; ``tablefmt`` is tabulate's."""
    blocks = [_inference_table(records, tablefmt)]
    trained = [record for record in records if "step" in record]
    if trained:
        blocks.append(_step_table(trained, tablefmt))
    blocks.append(SPEED_NOTE)
    compared = [record for record in records if "relative" in record]
    if compared:
        blocks += [_relative_table(compared, tablefmt), f"{RELATIVE_NOTE} {DESCRIPTION}"]
    blocks += [_roofline_table(records, tablefmt), ROOFLINE_NOTE]
    blocks += [_syncs_note(record) for record in trained]
    return "\n\n".join(blocks)


def workload_cells(record: Record) -> list[str]:
    """Return the first cells of a record's row: config, and what else was chosen."""
    config = " ".join([record["config"], *record["overrides"]])
    return [config, size_of(record), precision_of(record)]


def size_of(record: Record) -> str:
    """Height and width of a record's images."""
    return "x".join(map(str, record["size"]))


def precision_of(record: Record) -> str:
    """Return the precision of a record, and whether it was compiled."""
    result: str = record["dtype"] + (", compiled" if record["compiled"] else "")
    return result


WORKLOAD_HEADERS = ["config", "size", "precision"]


def _inference_table(records: Sequence[Record], tablefmt: str) -> str:
    names = part_names(record["inference"]["parts"] for record in records)
    rows = [
        [
            *workload_cells(record),
            _with_quartiles(record["inference"], 1e3, 1),
            _milliseconds(record["inference"]["p90"]),
            f"{record['images_per_second']:.2f} ({record['batch']})",
            *(_optional_ms(record["inference"]["parts"].get(name)) for name in names),
        ]
        for record in records
    ]
    headers = [*WORKLOAD_HEADERS, "latency", "p90", "images/s (batch)", *names]
    return format_table(rows, headers, tablefmt, text_columns=3)


def _step_table(records: Sequence[Record], tablefmt: str) -> str:
    names = part_names(record["step"]["parts"] for record in records)
    names = sorted((name for name in names if name != "data"), key=_order_of_step)
    rows = [
        [
            *workload_cells(record),
            str(record["batch"]),
            _with_quartiles(record["step"], 1e3, 1),
            _milliseconds(record["step"]["p90"]),
            _data_cell(record),
            *(_optional_ms(record["step"]["parts"].get(name)) for name in names),
        ]
        for record in records
    ]
    headers = [*WORKLOAD_HEADERS, "batch", "training step", "p90", "data", *names]
    return format_table(rows, headers, tablefmt, text_columns=3)


def _data_cell(record: Record) -> str:
    seconds = record["step"]["parts"].get("data")
    return record["data"] if seconds is None else _milliseconds(seconds)


def _order_of_step(part: str) -> int:
    order = ("forward", "matching", "losses", "backward", "optimizer")
    return order.index(part) if part in order else len(order)


def _relative_table(records: Sequence[Record], tablefmt: str) -> str:
    rows = []
    for record in records:
        cells = [*workload_cells(record), str(record["batch"])]
        for name, body in (("inference", "body_forward"), ("step", "body_step")):
            ratio = record["relative"].get(name)
            if ratio is None:
                cells += ["", "", "", ""]
                continue
            cells += [
                _milliseconds(record["relative"][body]["median"]),
                _with_quartiles(ratio, 1, 2),
                f"{ratio['best']:.2f}",
                _with_quartiles(ratio["processor"], 1, 2),
            ]
        rows.append(cells)
    headers = [
        *WORKLOAD_HEADERS,
        "batch",
        "body forward",
        "inference / body forward",
        "of the fastest",
        "of processor time",
        "body forward+backward",
        "step / body forward+backward",
        "of the fastest",
        "of processor time",
    ]
    return format_table(rows, headers, tablefmt, text_columns=3)


def _roofline_table(records: Sequence[Record], tablefmt: str) -> str:
    names = part_names(record["roofline"]["parts"] for record in records)
    rows = []
    for record in records:
        rates = record["roofline"]
        cells = [rates["total"], *(rates["parts"].get(name) for name in names)]
        rows.append(
            [
                *workload_cells(record),
                f"{rates['matmul'] / 1e9:.0f}",
                *("" if r is None else f"{r['rate'] / 1e9:.0f} ({r['share']:.0%})" for r in cells),
            ]
        )
    headers = [*WORKLOAD_HEADERS, "matrix product", "model", *names]
    return format_table(rows, headers, tablefmt, text_columns=3)


def _syncs_note(record: Record) -> str:
    syncs = record["host_syncs"]
    listed = ", ".join(f"{times} x {name}" for name, times in syncs.items()) or "none"
    return f"{record['config']}: waits for the device per training step: {listed}"


def part_names(mappings: Any) -> list[str]:
    """All keys, in the order in which they first appear, what belongs to no part last."""
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    return sorted(names, key=lambda name: name == "other")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def _optional_ms(seconds: float | None) -> str:
    return "" if seconds is None else _milliseconds(seconds)


def _with_quartiles(stats: Mapping[str, float], scale: float, digits: int) -> str:
    median, low, high = (stats[name] * scale for name in ("median", "low", "high"))
    return f"{median:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"
