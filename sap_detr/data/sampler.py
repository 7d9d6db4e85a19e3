"""The order in which training sees its images: a function of the seed and of the position.

Training reads one global stream of positions 0, 1, 2, ... Which image stands at a position is a
function of the seed, and so is its augmentation: neither depends on the number of processes, on
workers, or on where training was resumed. Loader step k takes the positions ``[k *
total_batch_size, (k + 1) * total_batch_size)``, of which every process takes an equal slice in the
order of ranks.

With gradient accumulation over A steps, ``total_batch_size`` is that of one step, and one update of
the weights takes the same positions, in the same groups of images that are padded together, on W
processes with A steps as on W * A processes with one.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from numpy.typing import NDArray
from torch.utils.data import Sampler

# One sample of the training stream: its position in the stream, and the index of its image.
Token = tuple[int, int]

# Keep the random numbers of the order, of the augmentation and of replacements apart.
ORDER_STREAM, SAMPLE_STREAM, REPLACEMENT_STREAM = 0, 1, 2


def random_words(*key: int) -> NDArray[Any]:
    """Return seed words (4,) of uint32, mixed so that neighbouring keys give unrelated streams."""
    return np.random.SeedSequence(key).generate_state(4)


@contextlib.contextmanager
def seeded(words: NDArray[Any]) -> Iterator[None]:
    """Seed the global random state of numpy, Python and torch (CPU), and restore it at the end.

    Args:
        words: as ``random_words`` gives them.
    """
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()
    number = int.from_bytes(words.tobytes(), "little")
    np.random.seed(words)
    random.seed(number)
    torch.default_generator.manual_seed(number % 2**63)
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])
        torch.set_rng_state(before[2])


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
        self.epoch_size = size // update_size * update_size
        self._first_step = 0

    @property
    def batch_size(self) -> int:
        """Return the images of one loader step in this process."""
        return self.total_batch_size // self.world_size

    def set_step(self, step: int) -> None:
        """Let iterators made from now on begin at a loader step.

        Args:
            step: training iteration times accumulation steps.
        """
        if step < 0:
            raise ValueError(f"a loader step must not be negative, got {step}")
        self._first_step = step

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Return image indices (size,) in an epoch's order; the first ``epoch_size`` are used."""
        words = random_words(self.seed, ORDER_STREAM, epoch)
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
