"""Whether an exported file finds what the model finds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ..data.shapes.drawing import draw_image
from ..detector import Detector
from ..modeling import DetectionTransformer
from .running import Batch, Found, Runner

# Added to the cost of a pair that is none: of other classes.
_NEVER = 1e12
_TINY = 1e-6


@dataclass(frozen=True)
class Limits:
    """How much a file may differ from its model.

    Attributes:
        score: largest difference of the scores of a detection that counts as found again.
        box: of its box's sides, in pixels.
        ap: of AP, in points of 100.
        share: of the detections, the least that must be found again. Below 1, a box here and
            there may be far off, and AP says more.
    """

    score: float
    box: float
    ap: float
    share: float

    @property
    def all_must_agree(self) -> bool:
        """Whether every single detection must be found again, whatever AP says."""
        return self.share == 1


LIMITS = {
    "float32": Limits(score=1e-4, box=0.05, ap=0.1, share=1.0),
    "float16": Limits(score=0.02, box=4.0, ap=0.3, share=0.95),
    "bfloat16": Limits(score=0.05, box=8.0, ap=0.3, share=0.95),
    "int8": Limits(score=0.1, box=16.0, ap=0.5, share=0.95),
}


@dataclass(frozen=True)
class Difference:
    """How much two runs differ.

    Attributes:
        images: how many were compared.
        detections: how many of the first run had to be found again.
        agreeing: how many of these were, with the same class, within the limits of score and box.
        score: largest difference of scores of detections matched by class.
        box: largest difference of their boxes' sides, in pixels.
    """

    images: int = 0
    detections: int = 0
    agreeing: int = 0
    score: float = 0.0
    box: float = 0.0

    def within(self, limits: Limits) -> bool:
        """Whether enough was found again; never where nothing was compared."""
        return 0 < limits.share * self.detections <= self.agreeing

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.images + other.images,
            self.detections + other.detections,
            self.agreeing + other.agreeing,
            max(self.score, other.score),
            max(self.box, other.box),
        )

    def __str__(self) -> str:
        return (
            f"{self.images} images, {self.agreeing} of {self.detections} detections found again: "
            f"scores differ by {self.score:.2g} at most, boxes by {self.box:.2g} pixels"
        )


@dataclass(frozen=True)
class Example:
    """An image to compare on.

    Attributes:
        image: (3, H, W), uint8, RGB, as large as the network sees it.
        original_size: height and width of the picture that it was made of.
    """

    image: NDArray[np.uint8]
    original_size: tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """What the model and a file find in one image, without the first dimension.

    Attributes:
        expected: by the model.
        found: by the file.
        alone: by the model without padding; the same as ``expected`` where the file takes any size.
        size: height and width that the boxes refer to.
        original_size: of the picture.
    """

    expected: Found
    found: Found
    alone: Found
    size: tuple[int, int]
    original_size: tuple[int, int]


def run_both(
    detector: Detector,
    runner: Runner,
    examples: Iterable[Example],
    size: tuple[int, int] | None = None,
) -> Iterator[Pair]:
    """Detect by the model and by a file, in batches of 1 and 2 by turns, so that there is padding.

    Args:
        detector: with the model.
        runner: of the file.
        examples: images.
        size: height and width that the file takes; None for any.
    """
    model = cast(DetectionTransformer, detector.predictor.model)
    rng = np.random.default_rng(0)
    for group in _groups(examples):
        batch, sizes = padded([example.image for example in group], size, rng)
        expected, found = run_eagerly(model, batch, sizes), runner(batch, sizes)
        most = found.scores.shape[1]
        for index, example in enumerate(group):
            of_model = alone = expected.of_image(index, most)
            if size is not None:
                single = run_eagerly(model, example.image[None], sizes[index : index + 1])
                alone = single.of_image(0, most)
            yield Pair(
                of_model,
                found.of_image(index, most),
                alone,
                (int(sizes[index, 0]), int(sizes[index, 1])),
                example.original_size,
            )


def _groups(examples: Iterable[Example]) -> Iterator[list[Example]]:
    rest = iter(examples)
    for wanted in itertools.cycle((1, 2)):
        group = list(itertools.islice(rest, wanted))
        if not group:
            return
        yield group


def difference(pairs: Iterable[Pair], limits: Limits) -> Difference:
    """Match detections, and compare them.

    Detections at the end of the list, whose score is within the limit of the last one's, may have
    given way to others in the second run, and count for nothing.
    """
    return sum((_compare(pair.expected, pair.found, limits) for pair in pairs), Difference())


def _compare(expected: Found, found: Found, limits: Limits) -> Difference:
    if not all(np.isfinite(x).all() for x in (*expected[:2], *found[:2])):
        return Difference(1, len(expected.scores), 0, np.inf, np.inf)
    needed = expected.scores > expected.scores[-1] + limits.score
    if not needed.any():  # all alike: there is no end of the list
        needed = np.ones_like(needed)
    boxes = np.abs(expected.boxes[needed][:, None] - found.boxes).max(-1)
    scores = np.abs(expected.scores[needed][:, None] - found.scores)
    same = expected.classes[needed][:, None] == found.classes
    # As far as each is from its limit, if that is not 0.
    cost = boxes / max(limits.box, _TINY) + scores / max(limits.score, _TINY)
    cost = cost + np.where(same, 0, _NEVER)
    rows, columns = linear_sum_assignment(cost)
    matched = same[rows, columns]
    rows, columns = rows[matched], columns[matched]
    scores, boxes = scores[rows, columns], boxes[rows, columns]
    return Difference(
        1,
        int(needed.sum()),
        int(((scores <= limits.score) & (boxes <= limits.box)).sum()),
        float(scores.max(initial=0)),
        float(boxes.max(initial=0)),
    )


def padded(
    images: Sequence[NDArray[np.uint8]],
    size: tuple[int, int] | None,
    rng: np.random.Generator,
) -> Batch:
    """Put images (3, H, W) together.

    Args:
        images: of any sizes.
        size: height and width of the batch; None for those of the largest image.
        rng: draws what is in the padding, which must make no difference.

    Returns:
        Images (B, 3, H, W) and their sizes (B, 2).
    """
    sizes = np.array([image.shape[1:] for image in images], dtype=np.int64)
    height, width = sizes.max(0) if size is None else size
    batch = rng.integers(256, size=(len(images), 3, height, width), dtype=np.uint8)
    for into, image, (rows, columns) in zip(batch, images, sizes, strict=True):
        into[:, :rows, :columns] = image
    return batch, sizes


def batch_of_noise(count: int, size: tuple[int, int], seed: int = 0) -> Batch:
    """Return random images of a (height, width) without padding, and their sizes."""
    noise = np.random.default_rng(seed).integers(256, size=(count, 3, *size), dtype=np.uint8)
    return padded(list(noise), size, np.random.default_rng(0))


@torch.no_grad()
def run_eagerly(
    model: DetectionTransformer, images: NDArray[np.uint8], sizes: NDArray[np.int64]
) -> Found:
    """Detect by the model itself, along the way that its evaluation goes."""
    singles: list[Tensor] = [
        torch.from_numpy(image[:, :height, :width])
        for image, (height, width) in zip(images, sizes, strict=True)
    ]
    if model.input_format == "BGR":
        singles = [image.flip(0) for image in singles]
    batch = model.preprocess([{"image": image} for image in singles])
    missing = [
        max(a - b, 0) for a, b in zip(images.shape[-2:], batch.tensor.shape[-2:], strict=True)
    ]
    tensor = F.pad(batch.tensor, (0, missing[1], 0, missing[0]))
    predictions = model.predict(tensor, batch.image_sizes, all_layers=False)
    detections = [x.to("cpu") for x in model.postprocessor(predictions, batch.image_sizes)]
    found = []
    for instances in detections:
        best = instances[instances.scores.argsort(descending=True, stable=True)]
        found.append((best.pred_boxes.tensor, best.scores, best.pred_classes))
    return Found(*(torch.stack(x).numpy() for x in zip(*found, strict=True)))


def generated_images(
    shapes: Sequence[tuple[int, int]], seed: int = 0
) -> Iterator[NDArray[np.uint8]]:
    """Draw images of shapes, (H, W, 3) of the given sizes, RGB."""
    rng = np.random.RandomState(seed)
    for height, width in shapes:
        yield draw_image(rng, height, width, max_objects=8)[0]
