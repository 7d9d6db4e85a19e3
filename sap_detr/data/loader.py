"""Loaders that read, augment and batch images in worker processes.

Training follows the stream of :mod:`sap_detr.data.sampler`. An image that can't be read is replaced
by another one, which is a function of seed and position as well. Evaluation replaces nothing: there
a bad image is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from torch.utils.data import DataLoader, Dataset

from .errors import DatasetError
from .images import BadImageError
from .record_arrays import RecordArrays
from .registry import dataset_records
from .sampler import (
    REPLACEMENT_STREAM,
    SAMPLE_STREAM,
    EpochSampler,
    Token,
    random_words,
    seeded,
)
from .standard_dict import StandardDict
from .unreadable_images import UnreadableImage, UnreadableImages

# What a mapper makes of a standard dict: the model's input.
Sample = dict[str, Any]
Mapper = Callable[[StandardDict], Sample]

# If so many images drawn at random are bad one after another, it is not the images.
_MAX_REPLACEMENTS = 10
# Where a sample tells the main process of the images that it replaces.
UNREADABLE = "unreadable_images"


class MappedDataset(Dataset[Sample]):
    """Mapped samples in the order of the data set.

    Args:
        dicts: standard dicts.
        mapper: maps one of them.
    """

    def __init__(self, dicts: Sequence[StandardDict], mapper: Mapper) -> None:
        # Held as arrays, which worker processes share with this one.
        self.records: Any = dicts
        if not isinstance(dicts, RecordArrays):
            self.records = DatasetFromList(list(dicts), copy=False)
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return self.mapper(self.records[index])

    def __getitems__(self, keys: Sequence[Any]) -> list[Any]:
        """Return a batch; of bad data only the error, for the main process to raise.

        torch would hand over an error of a worker with the worker's traceback in its text.
        """
        try:
            return [self[key] for key in keys]
        except DatasetError as error:
            return [error]


class TrainDataset(MappedDataset):
    """Mapped training samples, augmented by a function of (seed, position in the stream).

    The place of an image that can't be read is taken by another one, drawn by a function of the
    same; the sample then lists the files and reasons under ``unreadable_images``.

    Args:
        dicts: standard dicts.
        mapper: augments one of them.
        seed: of the augmentation.
    """

    def __init__(self, dicts: Sequence[StandardDict], mapper: Mapper, seed: int) -> None:
        super().__init__(dicts, mapper)
        self.seed = seed

    def __getitem__(self, token: Token) -> Sample:  # type: ignore[override]
        position, index = token
        bad: list[UnreadableImage] = []
        for candidate in self._candidates(position, index):
            try:
                with seeded(random_words(self.seed, SAMPLE_STREAM, position)):
                    sample = self.mapper(self.records[candidate])
            except BadImageError as error:
                bad.append((error.file_name, error.reason))
                continue
            return {**sample, UNREADABLE: bad} if bad else sample
        raise DatasetError(
            f"{len(bad)} images, drawn at random, can't be read one after another. Is the disk "
            "still there? The first of them: " + "; ".join(f"{f}: {why}" for f, why in bad[:3])
        )

    def _candidates(self, position: int, index: int) -> Iterator[int]:
        """Yield the index of a position's own image, then those that may replace it."""
        yield index
        words = random_words(self.seed, REPLACEMENT_STREAM, position)
        yield from np.random.RandomState(words).randint(len(self), size=_MAX_REPLACEMENTS).tolist()


class CheckedLoader(DataLoader[Sample]):
    """A DataLoader that raises errors of the data in the main process, in their own words."""

    def __iter__(self) -> Iterator[list[Sample]]:  # type: ignore[override]
        return map(self._checked, super().__iter__())

    def _checked(self, batch: list[Any]) -> list[Sample]:
        if batch and isinstance(batch[0], DatasetError):
            # A variable for it would be a cycle of references, which keeps torch from telling its
            # workers to end: it would wait five seconds for each of them.
            raise batch.pop()
        return batch


class TrainLoader(CheckedLoader):
    """Counts the images that had to be replaced.

    Attributes:
        unreadable: the count. Of several processes, all have to call its ``share`` now and then.
    """

    unreadable: UnreadableImages

    def _checked(self, batch: list[Any]) -> list[Sample]:
        batch = super()._checked(batch)
        self.unreadable.note(bad for sample in batch for bad in sample.pop(UNREADABLE, ()))
        return batch


def build_train_loader(
    dataset: str | Sequence[str] | Sequence[StandardDict],
    mapper: Mapper,
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    accumulation_steps: int = 1,
    max_bad_share: float = 0.01,
) -> TrainLoader:
    """Build an infinite loader of batches (lists of mapped dicts), see the module's description.

    To resume at a loader step: ``loader.sampler.set_step(step)``, then make a new iterator.

    Args:
        dataset: standard dicts, or names of registered data sets.
        mapper: maps a standard dict to a model input; it may draw from numpy's, Python's and
            torch's global state.
        total_batch_size: images of one loader step over all processes.
        num_workers: worker processes of this process; 0 to map here.
        seed: of order and augmentation; the same in all processes.
        accumulation_steps: loader steps for one update of the weights.
        max_bad_share: share of the data set's images, rounded up, that may turn out to be
            unreadable; others take their places. Above it, the loader raises a DatasetError.

    Raises:
        ValueError: if the batch size doesn't fit the number of processes or of images, or the share
            is not in 0..1.
        DatasetError, FileNotFoundError: if names are given that can't be loaded.
    """
    dicts = _as_dicts(dataset)
    unreadable = UnreadableImages(len(dicts), max_bad_share)
    sampler = EpochSampler(
        len(dicts), total_batch_size, seed, accumulation_steps=accumulation_steps
    )
    loader = TrainLoader(
        TrainDataset(dicts, mapper, seed),
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        persistent_workers=num_workers > 0,
        # Otherwise every new iterator draws from the global state, and training would depend on how
        # many there were.
        generator=torch.Generator().manual_seed(seed),
    )
    loader.unreadable = unreadable
    return loader


def build_test_loader(
    dataset: str | Sequence[str] | Sequence[StandardDict],
    mapper: Mapper,
    num_workers: int = 0,
    batch_size: int = 1,
) -> CheckedLoader:
    """Build a loader that gives every image once, split between the processes.

    Args:
        dataset: standard dicts, or names of registered data sets.
        mapper: maps a standard dict to a model input.
        num_workers: worker processes of this process; 0 to map here.
        batch_size: images of a batch in this process. Images of one batch are padded to the same
            size, which costs DC5 models accuracy.

    Iterating over it raises BadImageError at an image that can't be read: a figure without it would
    not be that of the data set.

    Raises:
        DatasetError, FileNotFoundError: if names are given that can't be loaded.
    """
    dicts = _as_dicts(dataset)
    return CheckedLoader(
        MappedDataset(dicts, mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(dicts)),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        generator=torch.Generator(),
    )


def _as_dicts(
    dataset: str | Sequence[str] | Sequence[StandardDict],
) -> Sequence[StandardDict]:
    if isinstance(dataset, str):
        return dataset_records(dataset)
    if isinstance(dataset, RecordArrays):
        return dataset
    items: list[Any] = list(dataset)
    if items and all(isinstance(item, str) for item in items):
        return dataset_records(items)
    if not items:
        raise DatasetError("the data set has no images")
    return items
