#!/usr/bin/env python
"""Measure what configs cost: parameters, FLOPs, speed and memory.

    benchmark.py params --config-file detr/detr_r50_500ep.py sap_detr/sap_detr_r50_50ep.py
    benchmark.py flops --config-file detr/detr_r50_500ep.py --coco-val2017 file id --json cost.json
    benchmark.py speed --config-file sap_detr/sap_detr_r50_50ep.py --relative-to-body --threads 2
    benchmark.py memory --config-file sap_detr/sap_detr_r50_50ep.py --sizes 320 480 640 800 1066
    benchmark.py profile --config-file sap_detr/sap_detr_r50_50ep.py --mode training
    benchmark.py loader --folder coco
    benchmark.py compare old.json new.json

Prints tables, and writes them to files where asked to. No weights are needed, and no data: images
and objects are random, except for `loader`, which times the reading of files.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sap_detr.analysis import (
    CONVENTION,
    CompareError,
    MeasureError,
    Workload,
    build_without_weights,
    coco_val2017_sizes,
    compare,
    compare_table,
    describe_machine,
    flop_records,
    flop_table,
    folder_records,
    load_benchmark,
    loader_record,
    loader_report,
    machine_line,
    memory_record,
    memory_report,
    parameter_record,
    parameter_table,
    profile_record,
    profile_report,
    speed_record,
    speed_report,
    uncounted_note,
)
from sap_detr.analysis.image_sizes import ORDERS
from sap_detr.analysis.report import Record
from sap_detr.analysis.workload import DTYPES, MODES
from sap_detr.arguments import positive_int
from sap_detr.config import ConfigError
from sap_detr.data import DatasetError
from sap_detr.data.mapper import READERS
from sap_detr.engine.setup import choose_device

# What can't be done, as against what is broken.
EXPECTED = (ConfigError, CompareError, DatasetError, MeasureError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 with one message for what can't be done."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--compare"]:
        argv[0] = "compare"
    args = _parser().parse_args(argv)
    try:
        for path in filter(None, (args.json, args.markdown)):
            if not path.parent.is_dir():
                raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
        args.run(args)
    except EXPECTED as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    return 0


def run_params(args: argparse.Namespace) -> None:
    """``benchmark.py params``."""
    records = [
        parameter_record(name, args.num_classes, args.overrides, args.depth)
        for name in args.config_file
    ]
    print(parameter_table(records))
    _write(args, records, parameter_table(records, "github"))


def run_flops(args: argparse.Namespace) -> None:
    """``benchmark.py flops``."""
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
    notes = "\n\n".join(filter(None, [uncounted_note(records), f"GFLOPs. {CONVENTION}"]))
    print(flop_table(records), notes, sep="\n\n")
    _write(args, records, f"{flop_table(records, 'github')}\n\n{notes}", convention=CONVENTION)


def run_speed(args: argparse.Namespace) -> None:
    """``benchmark.py speed``."""
    machine = _prepare(args)
    if args.data is not None and args.relative_to_body:
        raise ConfigError("--relative-to-body compares on the same images: leave out --data")
    records = [
        speed_record(
            workload, args.repeats, args.warm_up, args.relative_to_body, not args.inference_only
        )
        for workload in _workloads(args, batch=args.batch, data=args.data)
    ]
    _report(args, machine, records, speed_report)


def run_memory(args: argparse.Namespace) -> None:
    """``benchmark.py memory``."""
    machine = _prepare(args)
    records = [memory_record(w, args.threads) for w in _workloads(args, batch=args.batch)]
    _report(args, machine, records, memory_report)


def run_profile(args: argparse.Namespace) -> None:
    """``benchmark.py profile``."""
    machine = _prepare(args)
    records = [
        profile_record(workload, mode, args.depth, top=args.top)
        for workload in _workloads(args, batch=args.batch)
        for mode in args.mode
    ]
    _report(args, machine, records, lambda records, *fmt: profile_report(records, args.top, *fmt))


def run_loader(args: argparse.Namespace) -> None:
    """``benchmark.py loader``."""
    torch.set_num_threads(1)
    records, data = folder_records(args.folder), Path(args.folder).name
    chosen = random.Random(0).sample(records, min(args.limit, len(records)))
    results = [
        loader_record(name, chosen, data, args.readers, args.repeats, args.overrides)
        for name in args.config_file
    ]
    _report(args, describe_machine(torch.device("cpu")), results, loader_report)


def run_compare(args: argparse.Namespace) -> None:
    """``benchmark.py compare``."""
    names = str(args.old), str(args.new)
    rows, warnings = compare(load_benchmark(args.old), load_benchmark(args.new), names)
    for warning in warnings:
        print(f"benchmark: warning: {warning}", file=sys.stderr)
    print(compare_table(rows))
    _write(args, rows, compare_table(rows, "github"))


def _prepare(args: argparse.Namespace) -> dict[str, str | int]:
    """Set the threads; look at all configs and at the device before anything takes time."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    args.device = choose_device(args.device)
    for name in args.config_file:
        build_without_weights(name, args.num_classes, args.overrides)
    return describe_machine(torch.device(args.device))


def _workloads(args: argparse.Namespace, **others: Any) -> list[Workload]:
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
            **others,
        )
        for name in args.config_file
        for size in sizes
    ]


def _report(
    args: argparse.Namespace,
    machine: dict[str, str | int],
    records: list[Record],
    report: Callable[..., str],
) -> None:
    line = machine_line(machine)
    print(line, report(records), sep="\n\n")
    _write(args, records, f"{line}\n\n{report(records, 'github')}", machine=machine)


def _write(args: argparse.Namespace, records: list[Record], markdown: str, **about: object) -> None:
    if args.json is not None:
        content = {"kind": args.command, "torch": torch.__version__, **about, "records": records}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.markdown is not None:
        args.markdown.write_text(markdown + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    files.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")

    common = argparse.ArgumentParser(add_help=False, parents=[files])
    common.add_argument(
        "--config-file",
        nargs="+",
        required=True,
        metavar="NAME",
        help="LazyConfig files, or names such as detr/detr_r50_500ep.py",
    )
    common.add_argument(
        "--num-classes",
        type=positive_int,
        metavar="C",
        help="number of classes (default: the config's own; 91 where its data set would say)",
    )
    common.add_argument(
        "--overrides",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="changes to all the configs, such as model.backbone.dc5=true",
    )

    depth = argparse.ArgumentParser(add_help=False)
    depth.add_argument(
        "--depth",
        type=positive_int,
        default=1,
        help="of the parts: 1 is backbone, neck, ...; 2 is their parts, ... (default: %(default)s)",
    )

    params = commands.add_parser("params", parents=[common, depth], help="count parameters")
    params.set_defaults(run=run_params)

    flops = commands.add_parser("flops", parents=[common, depth], help="count multiply-adds")
    flops.add_argument(
        "--size",
        nargs=2,
        type=positive_int,
        metavar=("H", "W"),
        help="size of the image in pixels (default: 800 1066, unless --coco-val2017 is given)",
    )
    flops.add_argument(
        "--coco-val2017",
        nargs="+",
        choices=ORDERS,
        default=[],
        help="mean over the first 100 images of COCO val2017 at 800/1333, in the order of the "
        "annotation file (published figures) or of the ids; their sizes are recorded",
    )
    flops.set_defaults(run=run_flops)

    measured = _measured_options(common)
    speed = commands.add_parser("speed", parents=[measured], help="time inference and training")
    speed.add_argument(
        "--repeats", type=positive_int, default=10, help="rounds (default: %(default)s)"
    )
    speed.add_argument(
        "--warm-up", type=int, default=2, help="rounds before that (default: %(default)s)"
    )
    speed.add_argument(
        "--relative-to-body",
        action="store_true",
        help="also in units of the body of torchvision's ResNet-50, measured in turns with it",
    )
    speed.add_argument("--inference-only", action="store_true", help="leave the training step out")
    speed.add_argument(
        "--data",
        metavar="FOLDER",
        help="train on the images of a data set in COCO format, with the loader of the config",
    )
    speed.set_defaults(run=run_speed)

    memory = commands.add_parser("memory", parents=[measured], help="largest memory")
    memory.set_defaults(run=run_memory)

    profile = commands.add_parser("profile", parents=[measured], help="where the time goes")
    profile.add_argument("--mode", nargs="+", choices=MODES, default=MODES)
    profile.add_argument("--top", type=positive_int, default=20, help="rows (default: %(default)s)")
    profile.add_argument(
        "--depth", type=positive_int, default=4, help="of the modules (default: %(default)s)"
    )
    profile.set_defaults(run=run_profile)

    loader = commands.add_parser("loader", parents=[files], help="time the training mapper")
    loader.add_argument("--folder", required=True, metavar="DIR", help="data set in COCO format")
    loader.add_argument(
        "--config-file",
        nargs="+",
        default=["common/data/coco.py"],
        metavar="NAME",
        help="configs whose mapper is timed (default: common/data/coco.py)",
    )
    loader.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE")
    loader.add_argument(
        "--readers", nargs="+", choices=READERS, default=READERS, help="(default: all)"
    )
    loader.add_argument(
        "--limit", type=positive_int, default=100, help="of images (default: %(default)s)"
    )
    loader.add_argument(
        "--repeats", type=positive_int, default=3, help="rounds (default: %(default)s)"
    )
    loader.set_defaults(run=run_loader)

    compared = commands.add_parser("compare", parents=[files], help="compare two --json files")
    compared.add_argument("old", type=Path)
    compared.add_argument("new", type=Path)
    compared.set_defaults(run=run_compare)
    return parser


def _measured_options(common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of everything that runs a model."""
    parser = argparse.ArgumentParser(add_help=False, parents=[common])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--size",
        nargs=2,
        type=positive_int,
        default=(640, 800),
        metavar=("H", "W"),
        help="size of the images in pixels (default: 640 800)",
    )
    sizes.add_argument(
        "--sizes",
        nargs="+",
        type=positive_int,
        default=[],
        metavar="S",
        help="several sizes: sides of square images in pixels",
    )
    parser.add_argument(
        "--batch", type=positive_int, default=1, help="images of a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--objects", type=positive_int, default=7, help="of each image (default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: the GPU if there is one"
    )
    parser.add_argument("--threads", type=positive_int, help="of torch (default: its own)")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="bfloat16 is mixed precision (default: %(default)s)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network, as train.compile does"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
