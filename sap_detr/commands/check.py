"""Check a data set before anything is trained on it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

from omegaconf import DictConfig
from tqdm import tqdm

from ..config import (
    ConfigError,
    as_list,
    load_config,
    num_queries,
    pixel_range,
    register_data,
)
from ..data import PixelRange, find_splits
from ..data.coco_schema import CocoFile
from ..data.inspection import Inspection, Source, Split, inspect
from ..data.inspection_report import exit_code, format_report, report_record
from ..visualization.findings_sheet import findings_sheet


def run(args: argparse.Namespace) -> int:
    """Check and report; return the exit status.

    Raises:
        ConfigError, DatasetError, OSError: if the check is not possible.
    """
    if args.annotations and len(args.annotations) != len(args.images or ()):
        raise ConfigError("every file of --annotations needs its folder in --images")
    for path in filter(None, (args.json, args.sheet)):
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    cfg = None if args.config_file is None else load_config(args.config_file, args.opts)
    pixels = find_range(args.pixel_range, cfg)
    inspection = inspect_data(args, cfg, pixels)
    code = exit_code(inspection, args.strict)
    record = {**report_record(inspection), "exit_code": code}
    print(format_report(record, args.examples))
    if args.json is not None:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if args.sheet is not None:
        written = findings_sheet(inspection.all_findings(), args.sheet, pixel_range=pixels)
        print(f"\nPictures: {written or 'nothing that could be drawn'}")
    return code


def inspect_data(
    args: argparse.Namespace, cfg: DictConfig | None, pixels: PixelRange
) -> Inspection:
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
            pixel_range=pixels,
            # A file or a name may be looked at alone.
            require_validation=not (args.annotations or args.names),
            progress=progress,
        )


def find_range(text: str | None, cfg: DictConfig | None) -> PixelRange:
    """Return what --pixel-range, or else the config, makes of images of more than 8 bits.

    Raises:
        ConfigError: if the text can't be read.
    """
    if text is None:
        return PixelRange() if cfg is None else pixel_range(cfg)
    try:
        return PixelRange.parse(text)
    except ValueError as error:
        raise ConfigError(f"--pixel-range: {error}") from error


def find_sources(args: argparse.Namespace, cfg: DictConfig | None) -> list[Source]:
    """Return the splits that a command line names.

    Without a config to say what is trained on, it is the first one.
    """
    if args.folder is not None:
        splits = find_splits(args.folder, args.train, args.val, args.format, args.val_share)
        return [Source(name, files, training=name == "train") for name, files in splits.items()]
    if args.annotations:
        names = [path.stem for path in args.annotations]
        if len(set(names)) < len(names):
            names = [str(path) for path in args.annotations]
        files = map(CocoFile, args.annotations, args.images)
        named = zip(names, files, strict=True)
        return [Source(*split, training=i == 0) for i, split in enumerate(named)]
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
