"""Measure what configs cost: parameters, FLOPs, speed and memory."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..analysis import Workload, build_without_weights, coco_val2017_sizes
from ..analysis.loader_speed import folder_records, loader_record, loader_report
from ..analysis.memory import memory_record, memory_report
from ..analysis.operators import profile_record, profile_report
from ..analysis.parameters import parameter_record, parameter_table
from ..analysis.published import CONVENTION, flop_records, flop_report
from ..analysis.speed import speed_record, speed_report
from ..analysis.tables import Record, describe_machine, machine_line
from ..config import ConfigError
from ..engine.setup import choose_device
from ..export import runtime_record, runtime_report

Measured = tuple[list[Record], Callable[..., str], dict[str, Any]]
"""Records; what makes tables of them, in a format of tabulate's; and what else is to be written."""


def run(args: argparse.Namespace) -> int:
    """Measure, and print tables.

    Raises:
        ConfigError: or another ``UserError``, if that is not possible.
    """
    for path in filter(None, (args.json, args.markdown)):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    records, report, about = MEASURES[args.measure](args)
    heading = f"{machine_line(about['machine'])}\n\n" if "machine" in about else ""
    print(heading + report(records))
    if args.json is not None:
        content = {"kind": args.measure, "torch": torch.__version__, **about, "records": records}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.markdown is not None:
        args.markdown.write_text(f"{heading}{report(records, 'github')}\n", encoding="utf-8")
    return 0


def run_params(args: argparse.Namespace) -> Measured:
    """``benchmark params``."""
    records = [
        parameter_record(name, args.num_classes, args.overrides, args.depth)
        for name in args.config_file
    ]
    return records, parameter_table, {}


def run_flops(args: argparse.Namespace) -> Measured:
    """``benchmark flops``."""
    images = {}
    if args.size or not args.coco_val2017:
        height, width = args.size or (800, 1066)
        images[f"{height}x{width}"] = [(height, width)]
    for order in args.coco_val2017:
        images[f"first 100 of COCO val2017 by {order}"] = coco_val2017_sizes(order)
    # All of them before any is counted, which takes longer and which a misspelt name would waste.
    models = [
        (name, *build_without_weights(name, args.num_classes, args.overrides))
        for name in args.config_file
    ]
    records = [
        {"config": name, "overrides": args.overrides, "classes": classes, **record}
        for name, model, classes in models
        for record in flop_records(model, images, args.depth)
    ]
    return records, flop_report, {"convention": CONVENTION}


def run_speed(args: argparse.Namespace) -> Measured:
    """``benchmark speed``."""
    machine = _prepare(args)
    if args.data is not None and args.relative_to_body:
        raise ConfigError("--relative-to-body compares on the same images: leave out --data")
    records = [
        speed_record(
            workload, args.repeats, args.warm_up, args.relative_to_body, not args.inference_only
        )
        for workload in _workloads(args)
    ]
    return records, speed_report, {"machine": machine}


def run_memory(args: argparse.Namespace) -> Measured:
    """``benchmark memory``."""
    machine = _prepare(args)
    records = [memory_record(w, args.threads) for w in _workloads(args)]
    return records, memory_report, {"machine": machine}


def run_runtimes(args: argparse.Namespace) -> Measured:
    """``benchmark runtimes``."""
    if args.compile or args.dtype != "float32" or args.device == "cuda":
        raise ConfigError("runtimes are compared on the CPU with the eager model in float32")
    args.device = "cpu"
    machine = _prepare(args)
    threads = torch.get_num_threads()
    records = [
        runtime_record(workload, args.runtimes, threads, args.repeats)
        for workload in _workloads(args)
    ]
    return records, runtime_report, {"machine": machine}


def run_profile(args: argparse.Namespace) -> Measured:
    """``benchmark profile``."""
    machine = _prepare(args)
    records = [
        profile_record(workload, mode, args.depth, top=args.top)
        for workload in _workloads(args)
        for mode in args.mode
    ]
    return records, partial(profile_report, top=args.top), {"machine": machine}


def run_loader(args: argparse.Namespace) -> Measured:
    """``benchmark loader``."""
    torch.set_num_threads(1)
    records, data = folder_records(args.folder), Path(args.folder).name
    chosen = random.Random(0).sample(records, min(args.limit, len(records)))
    results = [
        loader_record(name, chosen, data, args.readers, args.repeats, args.overrides)
        for name in args.config_file
    ]
    return results, loader_report, {"machine": describe_machine(torch.device("cpu"))}


def _prepare(args: argparse.Namespace) -> dict[str, str | int]:
    """Set the threads; look at all configs and at the device before anything takes time."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    args.device = choose_device(args.device)
    for name in args.config_file:
        build_without_weights(name, args.num_classes, args.overrides)
    return describe_machine(torch.device(args.device))


def _workloads(args: argparse.Namespace) -> list[Workload]:
    sizes = [(side, side) for side in args.sizes] or [tuple(args.size)]
    return [
        Workload(
            config=name,
            overrides=tuple(args.overrides),
            num_classes=args.num_classes,
            size=size,
            num_objects=args.objects,
            device=args.device,
            dtype=args.dtype,
            compiled=args.compile,
            batch=args.batch,
            data=getattr(args, "data", None),
        )
        for name in args.config_file
        for size in sizes
    ]


MEASURES: dict[str, Callable[[argparse.Namespace], Measured]] = {
    "params": run_params,
    "flops": run_flops,
    "speed": run_speed,
    "memory": run_memory,
    "runtimes": run_runtimes,
    "profile": run_profile,
    "loader": run_loader,
}
