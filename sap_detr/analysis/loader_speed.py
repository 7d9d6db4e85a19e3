"""How many images a second one processor core reads and augments for training."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from detectron2.config import instantiate

from ..config import ConfigError, load_config
from ..data import DatasetError, dataset_records, register_folder
from ..data.loader import UNREADABLE, TrainDataset
from ..data.mapper import READERS
from .tables import Columns, Record, cell, record_table
from .timing import in_turns, statistics

LOADER_NOTE = (
    "Images per second of one core that does nothing else, and milliseconds per image, from time "
    "that the processor worked: waiting for a disk is not in it. All readers augment the same "
    "images in the same way, in turns. MB: what a worker hands over per image. The reader "
    '"device" leaves most of the resizing to the model.'
)


def loader_record(
    config: str,
    records: Sequence[Record],
    data: str,
    readers: Sequence[str] = READERS,
    rounds: int = 3,
    overrides: Sequence[str] = (),
) -> Record:
    """Measure the training mapper of a config with several readers.

    One round maps every image once, with another augmentation in each round. torch should run on
    one thread, or what the others do is missing.

    Args:
        config: a LazyConfig file or a zoo name.
        records: standard dicts of the images.
        data: what to call them.
        readers: of :class:`DetrDatasetMapper`.
        rounds: how often each reader maps all images; one round more warms up.
        overrides: changes to the config as ``key.path=value``.

    Returns:
        ``config``, ``overrides``, ``data``, ``images``, ``rounds``, and ``readers``: for each
        ``images_per_second``, ``seconds`` per image (:func:`statistics`), and ``bytes`` of
        an image that is handed over.

    Raises:
        FileNotFoundError, ConfigError: if there is no such config, or its mapper has no reader.
        DatasetError: if an image can't be used.
    """
    runs = {
        reader: partial(_map_all, TrainDataset(records, mapper, seed=0), itertools.count())
        for reader, mapper in _mappers(config, readers, overrides).items()
    }
    measured = {}
    for reader, results in in_turns(runs, rounds, warm_up=1).items():
        samples, sizes = zip(*results, strict=True)
        seconds = statistics(samples)
        measured[reader] = {
            "images_per_second": 1 / seconds["median"],
            "seconds": seconds,
            "bytes": float(np.mean(sizes)),
        }
    return {
        "config": config,
        "overrides": list(overrides),
        "data": data,
        "images": len(records),
        "rounds": rounds,
        "readers": measured,
    }


def folder_records(folder: str) -> Sequence[Record]:
    """Return the training images of a data set in COCO format, with their objects."""
    return dataset_records(register_folder("benchmark_loader", folder)[0])


def loader_report(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`loader_record` returned; ``tablefmt`` is tabulate's."""
    rows = [
        {"images": f"{record['images']} of {record['data']}", "reader": reader, **measured}
        for record in records
        for reader, measured in record["readers"].items()
    ]
    columns: Columns = {
        "images": cell("images"),
        "reader": cell("reader"),
        "images/s/core": cell("images_per_second", form="{:.0f}".format),
        "ms": lambda row: f"{row['seconds']['median'] * 1e3:.2f}",
        "MB": lambda row: f"{row['bytes'] / 1e6:.2f}",
    }
    return f"{record_table(rows, columns, tablefmt, text_columns=2)}\n\n{LOADER_NOTE}"


def _map_all(dataset: TrainDataset, positions: Iterator[int]) -> tuple[float, float]:
    """Map every image once, at positions of the training stream that no other call has.

    Returns:
        Seconds that the processor worked in this thread, and bytes handed over, both per image.
    """
    size = 0
    # Other processes hardly change it.
    start = time.thread_time()
    for index in range(len(dataset)):
        sample = dataset[(next(positions), index)]
        if UNREADABLE in sample:
            raise DatasetError("{}: {}".format(*sample[UNREADABLE][0]))
        size += sample["image"].numel()
    return (time.thread_time() - start) / len(dataset), size / len(dataset)


def _mappers(config: str, readers: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    cfg = load_config(config, overrides)
    mapper = cfg.get("dataloader", {}).get("train", {}).get("mapper")
    if mapper is None or "reader" not in mapper:
        raise ConfigError(f"{config} has no dataloader.train.mapper.reader to compare")
    return {reader: instantiate({**mapper, "reader": reader}) for reader in readers}
