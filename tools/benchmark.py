#!/usr/bin/env python
"""Measure what configs cost: parameters and FLOPs.

    benchmark.py params --config-file detr/detr_r50_500ep.py sap_detr/sap_detr_r50_50ep.py
    benchmark.py flops --config-file detr/detr_r50_500ep.py --size 800 1066
    benchmark.py flops --config-file detr/detr_r50_500ep.py --coco-val2017 file id --json cost.json

Prints a table, and writes it to files where asked to. Neither data nor weights are needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sap_detr.analysis import (
    CONVENTION,
    build_without_weights,
    coco_val2017_sizes,
    flop_records,
    flop_table,
    parameter_record,
    parameter_table,
    uncounted_note,
)
from sap_detr.analysis.image_sizes import ORDERS
from sap_detr.config import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 with one message for what can't be done."""
    args = _parser().parse_args(argv)
    try:
        for path in filter(None, (args.json, args.markdown)):
            if not path.parent.is_dir():
                raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
        args.run(args)
    except (ConfigError, OSError) as error:
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


def _write(args: argparse.Namespace, records: list[dict], markdown: str, **about: str) -> None:
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
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config-file",
        nargs="+",
        required=True,
        metavar="NAME",
        help="LazyConfig files, or names such as detr/detr_r50_500ep.py",
    )
    common.add_argument(
        "--num-classes",
        type=_positive,
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
    common.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    common.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")

    depth = argparse.ArgumentParser(add_help=False)
    depth.add_argument(
        "--depth",
        type=_positive,
        default=1,
        help="of the parts: 1 is backbone, neck, ...; 2 is their parts, ... (default: %(default)s)",
    )

    params = commands.add_parser("params", parents=[common, depth], help="count parameters")
    params.set_defaults(run=run_params)

    flops = commands.add_parser("flops", parents=[common, depth], help="count multiply-adds")
    flops.add_argument(
        "--size",
        nargs=2,
        type=_positive,
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
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
