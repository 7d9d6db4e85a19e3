"""What the parts of a detector hand to one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..layers import full_precision_dtype
from .box_ops import xyxy_to_cxcywh


@dataclass(frozen=True)
class FeatureMap:
    """One level of features, before or after the encoder.

    Attributes:
        features: (B, D, H, W).
        position: (B, D, H, W), or (1, D, H, W) where it is the same for all images.
        padding_mask: (B, H, W) bool, True on padding; None where no image is padded, so that
            nothing is spent on masks then.
    """

    features: Tensor
    position: Tensor
    padding_mask: Tensor | None = None

    @property
    def tokens(self) -> Tensor:
        """The features as (B, N, D), row by row."""
        return self.features.flatten(2).transpose(1, 2)

    @property
    def token_position(self) -> Tensor:
        """The position encoding as (B or 1, N, D)."""
        return self.position.flatten(2).transpose(1, 2)

    @property
    def token_padding_mask(self) -> Tensor | None:
        """The padding mask as (B, N), or None."""
        return None if self.padding_mask is None else self.padding_mask.flatten(1)

    def extent(self, valid_only: bool) -> Tensor:
        """Width and height in cells: (1, 2) of the map, (B, 2) of what of it is not padding.

        Nothing is copied to or from the device. Where no image is padded, the result is (1, 2).
        """
        dtype = full_precision_dtype(self.features.dtype)
        if valid_only and self.padding_mask is not None:
            valid = ~self.padding_mask
            columns, rows = valid.any(1).sum(1), valid.any(2).sum(1)
            return torch.stack((columns, rows), dim=-1).to(dtype)
        sizes = [
            torch.full((1,), length, dtype=dtype, device=self.features.device)
            for length in (self.features.shape[-1], self.features.shape[-2])
        ]
        return torch.stack(sizes, dim=-1)

    def with_tokens(self, tokens: Tensor) -> FeatureMap:
        """Return the same map with other features, given as (B, N, D)."""
        height, width = self.features.shape[-2:]
        return replace(self, features=tokens.transpose(1, 2).unflatten(2, (height, width)))


@dataclass(frozen=True)
class Pyramid:
    """All levels of features as one sequence of N tokens, level by level and row by row.

    Attributes:
        tokens: (B, N, D).
        position: (B or 1, N, D).
        padding_mask: (B, N) bool, True on padding; None where no image is padded.
        sizes: (H, W) of every level; N is the sum of all H * W.
        extents: (B or 1, L, 2), width and height in cells of what of each level is not padding.
    """

    tokens: Tensor
    position: Tensor
    padding_mask: Tensor | None
    sizes: list[tuple[int, int]]
    extents: Tensor

    @classmethod
    def of(cls, maps: Sequence[FeatureMap]) -> Pyramid:
        """Put the levels one after the other."""
        # Either all levels have a mask or none has.
        masks = [level.token_padding_mask for level in maps]
        padded = [mask for mask in masks if mask is not None]
        return cls(
            tokens=torch.cat([level.tokens for level in maps], dim=1),
            position=torch.cat([level.token_position for level in maps], dim=1),
            padding_mask=torch.cat(padded, dim=1) if padded else None,
            sizes=[(level.features.shape[-2], level.features.shape[-1]) for level in maps],
            extents=torch.stack([level.extent(valid_only=True) for level in maps], dim=1),
        )

    @property
    def level(self) -> Tensor:
        """The level of every token, (N,) int64."""
        levels = [
            torch.full((h * w,), level, device=self.tokens.device)
            for level, (h, w) in enumerate(self.sizes)
        ]
        return torch.cat(levels)

    @property
    def corners(self) -> Tensor:
        """Top left corners (x, y) of the cells as fractions of the unpadded images: (B or 1, N, 2).

        A point is at the same fraction of the unpadded image on all levels. Padding makes that
        differ from the same fraction of the map, since each level rounds it to cells of its own.
        """
        return self._fractions(0.0)

    @property
    def centres(self) -> Tensor:
        """Centres of the cells, like :attr:`corners`."""
        return self._fractions(0.5)

    def _fractions(self, shift: float) -> Tensor:
        fractions = []
        for (height, width), extent in zip(self.sizes, self.extents.unbind(1), strict=True):
            x = torch.arange(width, dtype=extent.dtype, device=extent.device) + shift
            y = torch.arange(height, dtype=extent.dtype, device=extent.device) + shift
            cells = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1)
            fractions.append(cells.flatten(0, 1) / extent[:, None])
        return torch.cat(fractions, dim=1)


def single_level(maps: Sequence[FeatureMap]) -> FeatureMap:
    """Return the only one of a list of levels.

    Raises:
        ValueError: if there are several, or none.
    """
    if len(maps) != 1:
        raise ValueError(f"this encoder or decoder takes a single feature level, got {len(maps)}")
    return maps[0]


@dataclass(frozen=True)
class Predictions:
    """What a decoder returns, all layers stacked; the last one is the output of the model.

    Attributes:
        logits: (L, B, Q, K); K is C, or C + 1 with "no object" last where the scores are a softmax.
        boxes: (L, B, Q, 4), cxcywh as fractions of the unpadded image.
        points: (L, B, Q, 2), the (x, y) that each box is measured from, as fractions of the image;
            None where the method has none.
        objectness: (L, B, Q, 1), logit of being an object at all; None where the method has none,
            and where only inference's needs are computed.
        groups: K, sets of queries that do not see each other and are each matched with all objects:
            Q is K times the queries of a group, group after group.
        matches: which query predicts which object, where that is known; else the matcher decides.
        repeats: how many queries of known matches predict one and the same object. Sums over
            objects are divided by it as well.
        tokens: (B, Q) int64, of which token of the memory each proposal is.
        proposals: the first stage's predictions (L = 1), the best first, where there is one.
        denoising: predictions of the noised objects, in training.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor | None = None
    objectness: Tensor | None = None
    groups: int = 1
    matches: Matches | None = None
    repeats: int = 1
    tokens: Tensor | None = None
    proposals: Predictions | None = None
    denoising: Predictions | None = None

    @property
    def last_layer(self) -> Predictions:
        """The predictions of the last layer alone, still with a leading dimension of 1."""
        return self._map(lambda x: x[-1:])

    def by_group(self) -> Predictions:
        """Make group g of layer l the layer l * K + g: (L, B, K * Q, ...) to (L * K, B, Q, ...)."""
        groups = self.groups
        if groups == 1:
            return self
        split = self._map(lambda x: x.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1))
        return replace(split, groups=1)

    def slice_queries(self, start: int, stop: int | None = None) -> Predictions:
        """Return the predictions of the queries ``start`` to ``stop`` (excluded)."""
        return self._map(lambda x: x[:, :, start:stop])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Predictions:
        """Apply a function to all that has the shape (L, B, Q, ...)."""
        stacked = {
            name: None if x is None else function(x)
            for name, x in vars(self).items()
            if name in ("logits", "boxes", "points", "objectness")
        }
        return replace(self, **stacked)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded to the largest number T of objects in an image.

    Attributes:
        boxes: (B, T, 4), cxcywh as fractions of each unpadded image; zeros where padded.
        labels: (B, T) int64; 0 where padded.
        counts: number of objects of each image, on the host.
    """

    boxes: Tensor
    labels: Tensor
    counts: tuple[int, ...]

    @classmethod
    def from_instances(
        cls, instances: Sequence[Instances], device: torch.device, dtype: torch.dtype
    ) -> Targets:
        """Collect ground truth as Detectron2's mappers make it.

        Args:
            instances: per image, with ``gt_boxes`` (XYXY pixels), ``gt_classes`` and the size of
                the image that the boxes refer to.
            device: where the result goes.
            dtype: dtype of the boxes.
        """
        boxes, labels = [], []
        for objects in instances:
            height, width = objects.image_size
            pixels = objects.gt_boxes.tensor.to(dtype)
            boxes.append(xyxy_to_cxcywh(pixels / pixels.new_tensor((width, height, width, height))))
            labels.append(objects.gt_classes)
        return cls(
            boxes=pad_sequence(boxes, batch_first=True).to(device, non_blocking=True),
            labels=pad_sequence(labels, batch_first=True).to(device, non_blocking=True),
            counts=tuple(len(x) for x in labels),
        )


@dataclass(frozen=True)
class Matches:
    """Which query predicts which object. In every layer an image has min(Q, objects) pairs.

    The P pairs of all images stand one after the other, in order of the images and then of the
    queries.

    Attributes:
        image: (P,) int64, index of the image.
        query: (L, P) int64, index of the query.
        target: (L, P) int64, index of the object in its image.
        counts: number of pairs of each image, on the host.
    """

    image: Tensor
    query: Tensor
    target: Tensor
    counts: tuple[int, ...]

    def gather_predictions(self, x: Tensor) -> Tensor:
        """Pick the matched queries: (L, B, Q, ...) to (L, P, ...)."""
        layer = torch.arange(x.shape[0], device=x.device)[:, None]
        return x[layer, self.image, self.query]

    def gather_targets(self, x: Tensor) -> Tensor:
        """Pick the matched objects: (B, T, ...) to (L, P, ...)."""
        return x[self.image, self.target]

    def scatter(self, values: Tensor, out: Tensor) -> Tensor:
        """Write values (L, P, ...) at the matched queries of a copy of ``out`` (L, B, Q, ...)."""
        layer = torch.arange(out.shape[0], device=out.device)[:, None]
        return out.index_put((layer, self.image, self.query), values)

    def per_image(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        """(query indices, object indices) of every image in one layer."""
        queries = self.query[layer].split(self.counts)
        targets = self.target[layer].split(self.counts)
        return list(zip(queries, targets, strict=True))


def padded_image_sizes(
    image_sizes: Sequence[tuple[int, int]], padded_size: tuple[int, int], device: torch.device
) -> Tensor | None:
    """Sizes of the images of a batch in which there is padding.

    Args:
        image_sizes: (height, width) of each image in pixels.
        padded_size: (height, width) of the batch in pixels.
        device: where the result goes.

    Returns:
        (B, 2) int64, height and width in pixels; None if no image is padded.
    """
    if all(tuple(size) == tuple(padded_size) for size in image_sizes):
        return None
    return torch.as_tensor([tuple(size) for size in image_sizes]).to(device, non_blocking=True)


def padding_mask_at(
    image_sizes: Tensor | None, padded_size: tuple[int, int], feature_size: tuple[int, int]
) -> Tensor | None:
    """Return the padding mask of a feature map: the pixel mask, resampled to nearest neighbours.

    Cell (i, j) is padding iff pixel (floor(i * H_pixels / H), floor(j * W_pixels / W)) is. This is
    what the published codes do, and not the same as calling the first ``ceil(size / stride)``
    cells valid. Rows and columns are resampled apart, since a pixel is padding iff its row or its
    column is; ``interpolate`` is kept because its rounding is the published one.

    Args:
        image_sizes: see :func:`padded_image_sizes`.
        padded_size: (height, width) of the batch in pixels.
        feature_size: (H, W) of the feature map.

    Returns:
        (B, H, W) bool, True on padding; None for no sizes.
    """
    if image_sizes is None:
        return None
    padded_axes = []
    for axis in (0, 1):
        pixels = torch.arange(padded_size[axis], device=image_sizes.device)
        padded = pixels >= image_sizes[:, axis, None]
        cells = F.interpolate(padded[:, None].float(), size=feature_size[axis], mode="nearest")
        padded_axes.append(cells[:, 0] > 0)
    rows, columns = padded_axes
    return rows[:, :, None] | columns[:, None, :]
