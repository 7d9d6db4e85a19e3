#!/usr/bin/env python
"""Check a data set before anything is trained on it.

    check_dataset.py --folder datasets/mine
    check_dataset.py --folder datasets/mine --full --sheet findings.png --json report.json
    check_dataset.py --annotations train.json val.json --images train/ val/ --num-queries 100
    check_dataset.py --config-file sap_detr/sap_detr_r50_50ep.py

Finds files that are missing, cut off, no images or of another size than annotated; bad, tiny and
repeated boxes; copies of images, above all in train and val; more objects than the model of a
config has queries; and classes without examples. Counts everything, and shows the first of each.

Exit code: 0 if the data can be trained on, 1 with --strict if there are warnings, 2 if there are
errors, with which training refuses to start, or if the check itself was not possible.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from sap_detr.arguments import positive_int
from sap_detr.config import (
    ConfigError,
    as_list,
    load_config,
    num_queries,
    pixel_range,
    register_data,
)
from sap_detr.data import DatasetError, PixelRange, find_coco_splits
from sap_detr.data.inspection import Inspection, Source, Split, inspect
from sap_detr.data.inspection_report import exit_code, format_report, report_record
from sap_detr.visualization.findings_sheet import findings_sheet

USER_ERRORS = (ConfigError, DatasetError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.annotations and len(args.annotations) != len(args.images or ()):
        parser.error("every file of --annotations needs its folder in --images")
    try:
        for path in filter(None, (args.json, args.sheet)):
            if not path.absolute().parent.is_dir():
                raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
        cfg = None if args.config_file is None else load_config(args.config_file, args.opts)
        inspection = inspect_data(args, cfg)
        code = exit_code(inspection, args.strict)
        record = {**report_record(inspection), "exit_code": code}
        print(format_report(record, args.examples))
        if args.json is not None:
            args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if args.sheet is not None:
            written = findings_sheet(
                inspection.all_findings(), args.sheet, pixel_range=find_range(args, cfg)
            )
            print(f"\nPictures: {written or 'nothing that could be drawn'}")
    except USER_ERRORS as error:
        print(f"check_dataset: {error}", file=sys.stderr)
        return 2
    return code


def inspect_data(args: argparse.Namespace, cfg: DictConfig | None) -> Inspection:
    """Make the inspection that a command line asks for.

    Raises:
        ConfigError, DatasetError, OSError: if it is not possible.
    """
    sources = find_sources(args, cfg)
    queries = args.num_queries
    if queries is None and cfg is not None:
        queries = num_queries(cfg)
    with make_pool(args.workers) as pool, ProgressBar() as progress:
        return inspect(
            sources,
            pool,
            num_queries=queries,
            decode=args.full,
            pixel_range=find_range(args, cfg),
            # A file or a name may be looked at alone.
            require_validation=not (args.annotations or args.names),
            progress=progress,
        )


def find_range(args: argparse.Namespace, cfg: DictConfig | None) -> PixelRange:
    """Return what a command line, or else its config, makes of images of more than 8 bits."""
    given: PixelRange | None = args.pixel_range
    if given is None:
        given = PixelRange() if cfg is None else pixel_range(cfg)
    return given


def find_sources(args: argparse.Namespace, cfg: DictConfig | None) -> list[Source]:
    """Return the splits that a command line names.

    Without a config to say what is trained on, it is the first one.
    """
    if args.folder is not None:
        splits = find_coco_splits(args.folder, args.train, args.val)
        return [Source(name, *files, training=name == "train") for name, files in splits.items()]
    if args.annotations:
        names = [path.stem for path in args.annotations]
        if len(set(names)) < len(names):
            names = [str(path) for path in args.annotations]
        files = zip(names, args.annotations, args.images, strict=True)
        return [Source(*paths, training=i == 0) for i, paths in enumerate(files)]
    if cfg is not None:
        register_data(cfg)
    if args.names:
        trained, evaluated = args.names[:1], args.names[1:]
    elif cfg is not None:
        loaders = cfg.dataloader
        trained, evaluated = (as_list(part.dataset.names) for part in (loaders.train, loaders.test))
    else:
        raise ConfigError("no data set: give --folder, --annotations, --names or --config-file")
    sources = [Source.registered(name, training=True) for name in trained]
    return sources + [Source.registered(name, training=False) for name in evaluated]


def make_pool(workers: int) -> Executor:
    """Return processes that read images; with 0, a thread of this one."""
    return ProcessPoolExecutor(workers) if workers else ThreadPoolExecutor(1)


class ProgressBar:
    """One bar on the terminal for each split."""

    def __enter__(self) -> ProgressBar:
        self._bar: tqdm | None = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, split: Split) -> Callable[[int], object]:
        self.__exit__()
        name = split.source.name
        self._bar = tqdm(total=len(split.dicts), desc=name, unit="image", file=sys.stderr)
        update: Callable[[int], object] = self._bar.update
        return update


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="check_dataset.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--folder", type=Path, metavar="DIR", help="data set in one of the known layouts"
    )
    what.add_argument(
        "--annotations",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="annotations in COCO format: of the training split first",
    )
    what.add_argument(
        "--names", nargs="+", metavar="NAME", help="registered data sets, such as coco_2017_train"
    )
    parser.add_argument(
        "--images", nargs="+", type=Path, metavar="DIR", help="folder of each of --annotations"
    )
    parser.add_argument("--train", metavar="NAME", help="what the training split of --folder is")
    parser.add_argument("--val", metavar="NAME", help="what its validation split is called")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="a config: its number of queries, and its data sets if none are given",
    )
    parser.add_argument("--num-queries", type=positive_int, metavar="Q", help="of the model")
    parser.add_argument(
        "--pixel-range",
        type=PixelRange.parse,
        metavar="RANGE",
        help="what becomes of images of more than 8 bits, as dataloader.pixel_range says it: full "
        "(the default), bits=N, percentile=P, refuse",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="decode all pixels, also of what is trained on: finds more damage and takes longer",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes that read images; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=5,
        metavar="N",
        help="most examples to print of each kind (default: %(default)s)",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if there are warnings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw findings here (.png)")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
