"""Data loaders whose order and augmentation can be restored at any iteration.

Training reads one global stream of positions 0, 1, 2, ... Which image stands at a position is a
function of the seed, and so is its augmentation: neither depends on the number of processes, on
workers, or on where training was resumed. Loader step k takes the positions ``[k *
total_batch_size, (k + 1) * total_batch_size)``, of which every process takes an equal slice in the
order of ranks.

With gradient accumulation over A steps, ``total_batch_size`` is that of one step, and one update of
the weights takes the same positions, in the same groups of images that are padded together, on W
processes with A steps as on W * A processes with one.

An image that can't be read is replaced by another one, which is a function of seed and position as
well. Evaluation replaces nothing: there a bad image is an error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .bad_images import BadImage, BadImages
from .checks import load_dataset, require_dataset
from .errors import BadImageError, DatasetError

Record = dict[str, Any]
Mapper = Callable[[Record], Record]

# One sample of the training stream: its position in the stream, and the index of its image.
Token = tuple[int, int]

# Keep the random numbers of the order, of the augmentation and of replacements apart.
_ORDER_STREAM, _SAMPLE_STREAM, _REPLACEMENT_STREAM = 0, 1, 2

# If so many images drawn at random are bad one after another, it is not the images.
_MAX_REPLACEMENTS = 10
# Where a sample tells the main process of the images that it replaces.
_BAD_IMAGES = "bad_images"


def get_dataset_dicts(names: str | Sequence[str], filter_empty: bool = False) -> list[Record]:
    """The standard dicts of one or several registered data sets.

    Args:
        names: names in Detectron2's catalog.
        filter_empty: whether to leave out images without annotations other than crowds. DETR trains
            on them.

    Raises:
        DatasetError: if a name is unknown, a data set is empty, or their classes differ.
        FileNotFoundError: if an annotation file is missing.
    """
    names = _as_names(names)
    if len(names) > 1:
        dataset_class_names(names)
    for name in names:
        require_dataset(name)
    return get_detection_dataset_dicts(names, filter_empty=filter_empty)


def dataset_class_names(names: str | Sequence[str]) -> list[str]:
    """The class names, in the order of the class indices, of data sets that must agree about them.

    Raises:
        DatasetError: if a name is unknown, a data set has no class names, or they differ.
        FileNotFoundError: if an annotation file is missing.
    """
    classes: dict[str, list[str]] = {}
    for name in _as_names(names):
        metadata = MetadataCatalog.get(name)
        if metadata.get("thing_classes", None) is None:
            load_dataset(name)
        found = metadata.get("thing_classes", None)
        if found is None:
            raise DatasetError(
                f"the data set {name!r} has no class names: set "
                f"MetadataCatalog.get({name!r}).thing_classes"
            )
        classes[name] = list(found)
    first, *others = classes
    for other in others:
        if classes[other] != classes[first]:
            raise DatasetError(
                f"the data sets {first!r} and {other!r} can't be used together, their classes "
                "differ:\n"
                f"  {first}: {classes[first]}\n  {other}: {classes[other]}"
            )
    return classes[first]


class EpochSampler(Sampler[Token]):
    """The infinite stream of training samples, as one process sees it.

    Epoch e shows the images in an order that is a function of (seed, e). What is left of an epoch
    when no further full batch fits is dropped, as in the published recipe (and is other images in
    every epoch).

    An iterator begins at the loader step that ``set_step`` named last; iterators that exist already
    go on as they were. So resume with ``loader.sampler.set_step(k)`` followed by a new
    ``iter(loader)``.

    Args:
        size: images in the data set.
        total_batch_size: images of one loader step over all processes.
        seed: of the order.
        accumulation_steps: loader steps for one update of the weights. An epoch ends after a full
            update, so the stream depends on ``total_batch_size * accumulation_steps`` only.
        shuffle: False for the order of the data set in every epoch.
        rank, world_size: of this process; by default those of Detectron2's process group.

    Raises:
        ValueError: if the processes can't share the batch equally, or the data set is smaller than
            one batch.
    """

    def __init__(
        self,
        size: int,
        total_batch_size: int,
        seed: int,
        *,
        accumulation_steps: int = 1,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.rank = comm.get_rank() if rank is None else rank
        self.world_size = comm.get_world_size() if world_size is None else world_size
        if total_batch_size < 1 or accumulation_steps < 1:
            raise ValueError(
                "total_batch_size and accumulation_steps must be positive, got "
                f"{total_batch_size} and {accumulation_steps}"
            )
        if total_batch_size % self.world_size:
            raise ValueError(
                f"{self.world_size} processes can't share a batch of {total_batch_size} images "
                "equally: "
                "choose a total batch size that is a multiple of the number of processes"
            )
        if seed < 0:
            raise ValueError(f"the seed of the data order must not be negative, got {seed}")
        update_size = total_batch_size * accumulation_steps
        if size < update_size:
            raise ValueError(
                f"the data set has {size} images, fewer than the {update_size} of one training "
                "iteration: "
                "lower the total batch size"
            )
        self.size = size
        self.total_batch_size = total_batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch_size = size // update_size * update_size
        self._first_step = 0

    @property
    def batch_size(self) -> int:
        """Images of one loader step in this process."""
        return self.total_batch_size // self.world_size

    def set_step(self, step: int) -> None:
        """Let iterators made from now on begin at a loader step.

        Args:
            step: training iteration times accumulation steps.
        """
        if step < 0:
            raise ValueError(f"a loader step must not be negative, got {step}")
        self._first_step = step

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Indices (size,) of the images in an epoch's order; the first ``epoch_size`` are used."""
        if not self.shuffle:
            return np.arange(self.size)
        words = _random_words(self.seed, _ORDER_STREAM, epoch)
        return np.random.RandomState(words).permutation(self.size)

    def __iter__(self) -> Iterator[Token]:
        step, epoch, order = self._first_step, -1, np.empty(0, dtype=np.int64)
        while True:
            first = step * self.total_batch_size + self.rank * self.batch_size
            # A batch never crosses the end of an epoch.
            if first // self.epoch_size != epoch:
                epoch = first // self.epoch_size
                order = self.epoch_order(epoch)
            for position in range(first, first + self.batch_size):
                yield position, int(order[position % self.epoch_size])
            step += 1


class _MappedDataset(Dataset[Record]):
    """Maps standard dicts.

    Args:
        dicts: standard dicts.
        mapper: maps one of them.
    """

    def __init__(self, dicts: Sequence[Record], mapper: Mapper) -> None:
        # Held as one array, which worker processes share with this one.
        self.records = DatasetFromList(list(dicts), copy=False)
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: Sequence[Any]) -> list[Any]:
        """A batch; of bad data only the error, for the main process to raise.

        torch would hand over an error of a worker with the worker's traceback in its text.
        """
        try:
            return [self[key] for key in keys]
        except DatasetError as error:
            return [error]


class TrainDataset(_MappedDataset):
    """Mapped training samples, augmented by a function of (seed, position in the stream).

    The place of an image that can't be read is taken by another one, drawn by a function of the
    same; the sample then lists the files and reasons under ``bad_images``.

    Args:
        dicts: standard dicts.
        mapper: augments one of them.
        seed: of the augmentation.
    """

    def __init__(self, dicts: Sequence[Record], mapper: Mapper, seed: int) -> None:
        super().__init__(dicts, mapper)
        self.seed = seed

    def __getitem__(self, token: Token) -> Record:
        position, index = token
        bad: list[BadImage] = []
        for candidate in self._candidates(position, index):
            try:
                with _SeededRandomState(_random_words(self.seed, _SAMPLE_STREAM, position)):
                    sample = self.mapper(self.records[candidate])
            except BadImageError as error:
                bad.append((error.file_name, error.reason))
                continue
            return {**sample, _BAD_IMAGES: bad} if bad else sample
        raise DatasetError(
            f"{len(bad)} images, drawn at random, can't be read one after another. Is the disk "
            "still there? The first of them: " + "; ".join(f"{f}: {why}" for f, why in bad[:3])
        )

    def _candidates(self, position: int, index: int) -> Iterator[int]:
        """The index of the image that belongs to a position, then those that may replace it."""
        yield index
        words = _random_words(self.seed, _REPLACEMENT_STREAM, position)
        yield from np.random.RandomState(words).randint(len(self), size=_MAX_REPLACEMENTS).tolist()


class TestDataset(_MappedDataset):
    """Mapped samples in the order of the data set."""

    __test__ = False

    def __getitem__(self, index: int) -> Record:
        return self.mapper(self.records[index])


class CheckedLoader(DataLoader):
    """A DataLoader that raises errors of the data in the main process, in their own words."""

    def __iter__(self) -> Iterator[list[Record]]:  # type: ignore[override]
        return map(self._checked, super().__iter__())

    def _checked(self, batch: list[Any]) -> list[Record]:
        if batch and isinstance(batch[0], DatasetError):
            # A variable for it would be a cycle of references, which keeps torch from telling its
            # workers to end: it would wait five seconds for each of them.
            raise batch.pop()
        return batch


class TrainLoader(CheckedLoader):
    """Counts the images that had to be replaced.

    Attributes:
        bad_images: the count. Of several processes, all have to call its ``share`` now and then.
    """

    bad_images: BadImages

    def _checked(self, batch: list[Any]) -> list[Record]:
        batch = super()._checked(batch)
        self.bad_images.note(bad for sample in batch for bad in sample.pop(_BAD_IMAGES, ()))
        return batch


def build_train_loader(
    dataset: str | Sequence[str] | Sequence[Record],
    mapper: Mapper,
    total_batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    accumulation_steps: int = 1,
    max_bad_share: float = 0.01,
) -> TrainLoader:
    """An infinite loader of batches (lists of mapped dicts), see the module's description.

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
    bad_images = BadImages(len(dicts), max_bad_share)
    sampler = EpochSampler(
        len(dicts), total_batch_size, seed, accumulation_steps=accumulation_steps
    )
    loader = TrainLoader(
        TrainDataset(dicts, mapper, seed),
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_as_list,
        persistent_workers=num_workers > 0,
        # Otherwise every new iterator draws from the global state, and training would depend on how
        # many there were.
        generator=torch.Generator().manual_seed(seed),
    )
    loader.bad_images = bad_images
    return loader


def build_test_loader(
    dataset: str | Sequence[str] | Sequence[Record],
    mapper: Mapper,
    num_workers: int = 0,
    batch_size: int = 1,
) -> CheckedLoader:
    """A loader that gives every image once, split between the processes.

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
        TestDataset(dicts, mapper),
        batch_size=batch_size,
        sampler=InferenceSampler(len(dicts)),
        num_workers=num_workers,
        collate_fn=_as_list,
        generator=torch.Generator(),
    )


def _as_names(names: str | Sequence[str]) -> list[str]:
    listed = [names] if isinstance(names, str) else list(names)
    if not listed:
        raise DatasetError("no data set is named")
    return listed


def _as_dicts(dataset: str | Sequence[str] | Sequence[Record]) -> list[Record]:
    if isinstance(dataset, str):
        return get_dataset_dicts(dataset)
    items: list[Any] = list(dataset)
    if items and all(isinstance(item, str) for item in items):
        return get_dataset_dicts(items)
    if not items:
        raise DatasetError("the data set has no images")
    return items


def _as_list(batch: list[Record]) -> list[Record]:
    """Collates nothing: the model pads the images itself."""
    return batch


def _random_words(*key: int) -> np.ndarray:
    """Seed words (4,) of uint32, mixed so that neighbouring keys give unrelated streams."""
    return np.random.SeedSequence(key).generate_state(4)


class _SeededRandomState:
    """Seeds the global random state of numpy, Python and torch (CPU), and restores it on exit."""

    def __init__(self, words: np.ndarray) -> None:
        self.words = words

    def __enter__(self) -> None:
        self._saved = np.random.get_state(), random.getstate(), torch.get_rng_state()
        number = int.from_bytes(self.words.tobytes(), "little")
        np.random.seed(self.words)
        random.seed(number)
        torch.default_generator.manual_seed(number % 2**63)

    def __exit__(self, *_: object) -> None:
        numpy_state, python_state, torch_state = self._saved
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
