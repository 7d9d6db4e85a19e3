"""A trained model that takes pictures of any kind.

detector = Detector("model_best.safetensors")
for found in detector.stream("folder/", threshold=0.4):
    print(found.name, found.instances.pred_boxes)
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import nn

from .checkpoint import (
    SCORED,
    CheckpointError,
    LoadReport,
    coco_class_names,
    load_checkpoint_file,
    load_weights,
)
from .config import load_config, pixel_range
from .data import AnyImage, PixelRange, find_images, to_pixels
from .data.any_image import black_and_white
from .engine import ModelDescription, build_model
from .text import listing
from .tiles import merge_tiles, tile_grid
from .visualization import Predictor, check_finite, class_name, draw_detections
from .visualization.pixels import Pixels
from .weights_files import find_weights

ClassNames = Sequence[str | None]

# Images that are held in memory per image of a batch, to find some of equal size.
_WINDOW = 8


@dataclass(frozen=True)
class Detected:
    """A picture with what was found in it.

    Attributes:
        name: its file, or its place in a list, such as "image 3"; "" for a picture given alone.
        image: (H, W, 3), uint8, RGB.
        instances: ``pred_boxes`` (XYXY, pixels of ``image``), ``scores`` and ``pred_classes``, the
            best first.
    """

    name: str
    image: Pixels
    instances: Instances


@dataclass(frozen=True)
class _Options:
    """See :meth:`Detector.stream`; ``classes`` are numbers."""

    threshold: float | torch.Tensor  # per class
    classes: torch.Tensor | None
    max_detections: int | None
    clip: bool
    batch_size: int
    tile: tuple[int, int, int] | None
    value_range: tuple[float, float]

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, torch.Tensor) and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, as scores are, got {self.threshold}")
        black_and_white(self.value_range)

    def select(self, found: Instances) -> Instances:
        """Leave out what nobody asked for."""
        limit = self.threshold
        if isinstance(limit, torch.Tensor):
            limit = limit[found.pred_classes]
        wanted = found.scores >= limit
        if self.classes is not None:
            wanted &= torch.isin(found.pred_classes, self.classes)
        return found[wanted]

    def finish(self, found: Instances) -> Instances:
        """Sort and limit the detections of a whole picture."""
        order = found.scores.argsort(descending=True, stable=True)
        found = found[order[: self.max_detections]]
        if self.clip:
            boxes = Boxes(found.pred_boxes.tensor.clone())
            boxes.clip(found.image_size)
            found.pred_boxes = boxes
        return found


class Detector:
    """Detects objects in pictures of any kind.

    Args:
        weights: a ``.safetensors`` file that describes its model: training leaves
            ``model_best.safetensors`` and ``model_final.safetensors``, and
            ``sap-detr convert --config-file`` makes one of any checkpoint. Nothing in
            the file is executed, and only parts of this package are built. Or the name of a small
            model that comes along, such as "small_sap_detr", see ``sap-detr weights list``.
        device: such as "cuda"; None for the GPU if there is one.

    Attributes:
        predictor: the model, with what is done to an image before.
        class_names: by class number; None if they are not known, None in it where one is not.
        pixel_range: what becomes of images of 16 bits.
        thresholds: per class, (C,), for ``threshold="best"``; None where the file has none.

    Raises:
        CheckpointError: there is no such file, it is damaged or describes no model, or what it
            describes may not be built.
    """

    thresholds: torch.Tensor | None = None

    def __init__(self, weights: str | os.PathLike[str], device: str | None = None) -> None:
        source = os.fspath(find_weights(weights))
        checkpoint = load_checkpoint_file(source)
        if "description" not in checkpoint:
            raise CheckpointError(
                f"{source} does not say of which model it is. Make a file that does with "
                f"sap-detr convert {source} NEW.safetensors --config-file CONFIG, or "
                "give the config: Detector.from_config(CONFIG, WEIGHTS)"
            )
        try:
            description = ModelDescription.from_data(checkpoint["description"])
            augmentations = description.build_augmentations()
            model = description.build_model(device)
        except CheckpointError as error:
            raise CheckpointError(f"{source} was not loaded: {error}") from error
        names, _ = _load(model, checkpoint, source, checkpoint.get("class_names"))
        predictor = Predictor(model, augmentations, description.image_format)
        self._hold(predictor, names, PixelRange.parse(description.pixel_range))
        self.thresholds = _stored_thresholds(checkpoint, names, source)

    @classmethod
    def from_config(
        cls,
        config: str,
        weights: str | os.PathLike[str],
        overrides: Sequence[str] = (),
        device: str | None = None,
    ) -> Detector:
        """Take the model from a config, for published weights and checkpoints of a training.

        Args:
            config: a file, or a name such as ``detr/detr_r50_500ep.py``. Configs are code: take
                only those that you trust.
            weights: of any form that :func:`~sap_detr.checkpoint.load_weights` knows, or the name
                of published ones that were fetched.
            overrides: changes to the config, as ``key.path=value``.
            device: such as "cuda"; None for the config's.

        Raises:
            FileNotFoundError: there is no such config.
            CheckpointError: the weights can't be read, or do not fill the model.
            ConfigError: the overrides make no sense.
        """
        cfg = load_config(config, overrides)
        if device is not None:
            cfg.train.device = device
        source = os.fspath(find_weights(weights))
        checkpoint = load_checkpoint_file(source)
        return cls.from_checkpoint(cfg, checkpoint, source, checkpoint.get("class_names"))[0]

    @classmethod
    def from_checkpoint(
        cls,
        cfg: DictConfig,
        checkpoint: dict[str, Any] | None,
        source: str,
        class_names: ClassNames | None,
    ) -> tuple[Detector, LoadReport | None]:
        """Build the model of a config, and fill it.

        Args:
            cfg: its number of classes becomes that of the names, if these are known.
            checkpoint: contents of a file of weights; None leaves them random.
            source: the file, for messages.
            class_names: by class number; None where only the weights may tell.

        Returns:
            The detector, and which weights it has.

        Raises:
            CheckpointError: the weights do not fill the model.
            ConfigError: the config makes no sense.
        """
        if class_names:
            cfg.model.num_classes = len(class_names)
        model, report = build_model(cfg), None
        if checkpoint is not None:
            weights = cfg.train.get("weights", SCORED)
            class_names, report = _load(model, checkpoint, source, class_names, weights)
        mapper = instantiate(cfg.dataloader.test.mapper)
        detector = cls.from_model(
            model, mapper.augmentations, class_names, mapper.image_format, pixel_range(cfg)
        )
        detector.thresholds = _stored_thresholds(checkpoint or {}, class_names, source)
        return detector, report

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        augmentations: T.Augmentation | Sequence[T.Augmentation | T.Transform] = (),
        class_names: ClassNames | None = None,
        image_format: str = "RGB",
        pixel_range: PixelRange | None = None,
    ) -> Detector:
        """Take any Detectron2 model; for the arguments see `Predictor` and the attributes."""
        detector = cls.__new__(cls)
        predictor = Predictor(model, augmentations, image_format)
        detector._hold(predictor, class_names, pixel_range or PixelRange())
        return detector

    def _hold(
        self, predictor: Predictor, class_names: ClassNames | None, pixel_range: PixelRange
    ) -> None:
        self.predictor = predictor
        self.class_names = class_names
        self.pixel_range = pixel_range

    def __call__(self, images: Any, **options: Any) -> list[Instances]:
        """Detect in pictures.

        Args:
            images: see :meth:`stream`.
            options: those of :meth:`stream`.

        Returns:
            Per picture, in order, see :attr:`Detected.instances`.

        Raises:
            ValueError, NonFiniteDetectionsError: as of :meth:`stream`.
        """
        return [found.instances for found in self.stream(images, **options)]

    def stream(
        self,
        images: Any,
        *,
        threshold: float | Literal["best"] = 0.5,
        classes: Sequence[str | int] | None = None,
        max_detections: int | None = None,
        clip: bool = False,
        batch_size: int = 1,
        tile: tuple[int, int, int] | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> Iterator[Detected]:
        """Detect in one picture after another, of which only some are in memory at a time.

        Args:
            images: a file, folder or glob (:func:`~sap_detr.data.find_images`), a PIL image, an
                array (H, W) or (H, W, C), a tensor (H, W) or (C, H, W), in RGB or grey, of uint8,
                uint16 or floating point (:func:`~sap_detr.data.to_pixels`), or a list of these.
            threshold: detections with lower scores are left out; 0 to evaluate. "best" is for each
                class what a report found, see :attr:`thresholds`.
            classes: only these, by name or number; None for all.
            max_detections: most of a picture, the best ones; None for all that the model gives.
            clip: cut boxes off at the border of the picture. As published, they are not.
            batch_size: pictures of equal size are given to the model together, up to so many, so
                that none is padded and detections do not depend on how pictures are put together.
            tile: height, width and overlap in pixels: larger pictures are cut into such tiles, each
                of which is resized and detected in like a picture, ``batch_size`` at a time. The
                overlap should be no less than the largest object. How detections are put
                together: :func:`~sap_detr.tiles.merge_tiles`.
            value_range: floating point values that are black and white.

        Returns:
            The pictures, in order.

        Raises:
            ValueError: an argument makes no sense, or is no image that can be used: before
                anything is detected, as far as that can be known without reading pixels.
            NonFiniteDetectionsError: boxes or scores of the model are not finite.
        """
        numbers = None if classes is None else torch.tensor(self.class_numbers(classes))
        lowest = self.lowest_scores(threshold)
        if max_detections is not None:
            max_detections = _positive("max_detections", max_detections, " or None")
        batch_size = _positive("batch_size", batch_size)
        tile = None if tile is None else _tile(tile)
        options = _Options(lowest, numbers, max_detections, clip, batch_size, tile, value_range)
        return self._stream(find_images(images), options)

    def lowest_scores(self, threshold: float | str) -> float | torch.Tensor:
        """Return the lowest scores that a threshold lets through: a number, or one per class (C,).

        Raises:
            ValueError: it is neither a number nor "best", or the weights hold no thresholds.
        """
        if isinstance(threshold, Real):
            return threshold
        if threshold != "best":
            raise ValueError(f'threshold must be a number or "best", got {threshold!r}')
        if self.thresholds is None:
            raise ValueError(
                'threshold="best": the weights hold no thresholds. Make a report with sap-detr '
                "eval --weights WEIGHTS --report REPORT, then a file that holds them with sap-detr "
                "convert WEIGHTS NEW.safetensors --thresholds REPORT"
            )
        return self.thresholds

    def draw(self, image: Any, instances: Instances, **options: Any) -> Pixels:
        """Draw detections into a picture, with the names of their classes.

        Args:
            image: of any kind that a call takes.
            instances: what was found in it.
            options: of :func:`~sap_detr.visualization.draw_detections`.

        Returns:
            (H, W, 3), uint8, RGB.
        """
        pixels = to_pixels(image, self.pixel_range)
        return draw_detections(pixels, instances, self.class_names, **options)

    def class_numbers(self, classes: Sequence[str | int]) -> list[int]:
        """Return the numbers of classes that are given by name or number.

        Raises:
            ValueError: the model has no such class, or they are not a sequence.
        """
        names = list(self.class_names or ())
        number = getattr(self.predictor.model, "num_classes", len(names)) or None
        found = []
        try:
            items = [classes] if isinstance(classes, str) else list(classes)
        except TypeError:
            what = "a sequence of names and numbers, or None"
            raise ValueError(f"classes must be {what}, got {classes!r}") from None
        for item in items:
            index = _whole(item)
            if isinstance(item, str) and item in names:
                found.append(names.index(item))
            elif index is not None and index >= 0 and (number is None or index < number):
                found.append(index)
            else:
                known = listing(map(str, names), 20) if names else "numbers, it has no names"
                raise ValueError(f"the model has no class {item!r}; it has {known}")
        return found

    def _stream(self, sources: Sequence[AnyImage], options: _Options) -> Iterator[Detected]:
        alone = options.tile is not None or options.batch_size == 1
        window = 1 if alone else options.batch_size * _WINDOW
        for start in range(0, len(sources), window):
            names = [source.name for source in sources[start : start + window]]
            pictures = [self._read(s, options) for s in sources[start : start + window]]
            if options.tile is None:
                results = self._detect(pictures, names, options)
            else:
                results = [self._detect_in_tiles(pictures[0], names[0], options)]
            for name, picture, found in zip(names, pictures, results, strict=True):
                yield Detected(name, picture, options.finish(found))

    def _read(self, source: AnyImage, options: _Options) -> Pixels:
        try:
            return to_pixels(source.content, self.pixel_range, options.value_range)
        except ValueError as error:
            if source.name in str(error):
                raise
            raise ValueError(f"{source.name}: {error}") from error

    def _detect(
        self, pictures: Sequence[Pixels], names: Sequence[str], options: _Options
    ) -> list[Instances]:
        """Detect in pictures, those of equal size together."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            groups.setdefault(picture.shape, []).append(index)
        results: dict[int, Instances] = {}
        for group in groups.values():
            for start in range(0, len(group), options.batch_size):
                batch = group[start : start + options.batch_size]
                inputs = [self.predictor.prepare(pictures[index]) for index in batch]
                for index, found in zip(batch, self.predictor.detect(inputs), strict=True):
                    check_finite(found, names[index])
                    results[index] = options.select(found)
        return [results[index] for index in range(len(pictures))]

    def _detect_in_tiles(self, picture: Pixels, name: str, options: _Options) -> Instances:
        assert options.tile is not None
        height, width, overlap = options.tile
        size = picture.shape[:2]
        tiles = tile_grid(size, (height, width), overlap)
        # Views: no pixel is copied before its tile's turn.
        parts = [picture[t.top : t.bottom, t.left : t.right] for t in tiles]
        found = self._detect(
            parts, [f"{name or 'the image'}, tile {t}" for t in map(tuple, tiles)], options
        )
        return merge_tiles(found, tiles, size)


def _whole(value: Any) -> int | None:
    """Return a whole number, of numpy or torch as well, as Python's; None for all else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _positive(name: str, value: Any, also: str = "") -> int:
    number = _whole(value)
    if number is None or number < 1:
        raise ValueError(f"{name} must be a positive whole number{also}, got {value!r}")
    return number


def _tile(given: Any) -> tuple[int, int, int]:
    """Return height, width and overlap of tiles, if they make sense."""
    try:
        height, width, overlap = map(operator.index, given)
    except (TypeError, ValueError):  # not three, or no whole numbers
        what = "tile is (height, width, overlap) in whole pixels, or None"
        raise ValueError(f"{what}, got {given!r}") from None
    tile_grid((1, 1), (height, width), overlap)
    return height, width, overlap


def _load(
    model: nn.Module,
    checkpoint: dict[str, Any],
    source: str,
    names: ClassNames | None,
    weights: str = SCORED,
) -> tuple[ClassNames | None, LoadReport]:
    """Fill a model; returns the names of its classes, if anything tells them."""
    names = names or None
    report = load_weights(model, checkpoint, class_names=names, source=source, weights=weights)
    report.require_complete()
    number = getattr(model, "num_classes", None)
    if names is None and report.format != "ours" and isinstance(number, int):
        # Published files name no classes; theirs are COCO's.
        names = coco_class_names(number)
    return names, report


def _stored_thresholds(
    checkpoint: dict[str, Any], names: ClassNames | None, source: str
) -> torch.Tensor | None:
    """Return the thresholds (C,) that weights hold for the model's classes, if they do."""
    if "description" not in checkpoint:
        return None
    try:
        thresholds = ModelDescription.from_data(checkpoint["description"]).thresholds
    except CheckpointError as error:
        raise CheckpointError(f"{source} was not loaded: {error}") from error
    if thresholds is None:
        return None
    if len(thresholds) != len(names or ()):
        raise CheckpointError(
            f"{source} has {len(thresholds)} thresholds for {len(names or ())} classes"
        )
    return torch.tensor(thresholds)


def to_coco(
    detections: Sequence[Instances],
    image_ids: Sequence[int],
    category_ids: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Turn detections into COCO's results, for ``json.dump`` and pycocotools' ``loadRes``.

    Args:
        detections: per picture. To evaluate, they must be found with ``threshold=0`` and neither
            clipped nor limited.
        image_ids: of the pictures, as in the annotation file.
        category_ids: by class number, as in the annotation file; None where these are the class
            numbers.

    Returns:
        Dicts with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels) and
        ``score``.

    Raises:
        ValueError: there are not as many ids as pictures, or too few for the classes.
    """
    if len(detections) != len(image_ids):
        raise ValueError(f"got {len(detections)} pictures' detections and {len(image_ids)} ids")
    results: list[dict[str, Any]] = []
    for instances, image_id in zip(detections, image_ids, strict=True):
        for result in instances_to_coco_json(instances, image_id):
            number = result["category_id"]
            if category_ids is not None:
                if number >= len(category_ids):
                    raise ValueError(f"class {number} is beyond the {len(category_ids)} ids given")
                result["category_id"] = category_ids[number]
            results.append(result)
    return results


def to_supervision(instances: Instances, class_names: ClassNames | None = None) -> Any:
    """Turn the detections of a picture into ``supervision.Detections``.

    Args:
        instances: what was found.
        class_names: by class number, for ``data["class_name"]``.

    Raises:
        ImportError: the package supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs a package: pip install supervision") from error
    classes = instances.pred_classes.numpy()
    names = np.array([class_name(class_names, int(number)) for number in classes], dtype=str)
    return supervision.Detections(
        xyxy=instances.pred_boxes.tensor.numpy(),
        confidence=instances.scores.numpy(),
        class_id=classes,
        data={"class_name": names},
    )
