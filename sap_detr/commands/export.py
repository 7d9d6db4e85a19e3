"""Write a detector to a file that runs elsewhere, and compare the two."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..arguments import replaced_file
from ..data import AnyImage, find_images, to_pixels
from ..detector import Detector
from ..errors import UserError
from ..evaluation.dataset import read_json
from ..export import (
    FORMATS,
    LIMITS,
    Calibration,
    Deployable,
    Example,
    ExportError,
    Labels,
    Limits,
    Metadata,
    difference,
    generated_images,
    open_exported,
    padded,
    run_both,
    trace,
)
from ..layers import resize_pixels
from ..results import KnownIds, Picture
from ..weights_files import find_weights

USER_ERRORS = (UserError, OSError, ValueError)

# Height and width of drawn images, before they are resized: landscape, portrait and square.
_DRAWN_SHAPES = ((480, 640), (640, 480), (512, 512))
DIFFERS = 3
# Images that are compared on unless --max-check-images is given.
_MOST_COMPARED, _MOST_LABELLED = 20, 200
# Images that int8 is calibrated on: more change nothing, and take time.
MOST_EXAMPLES = 300


def run(args: argparse.Namespace) -> int:
    """Export, check, and say what came out.

    Returns:
        The exit status.

    Raises:
        ExportError: or another ``UserError``, with what is wrong.
    """
    limits = _check_arguments(args)
    sources = None if args.check_images is None else find_images(args.check_images)
    pictures: list[Picture] = []
    if sources is not None and args.annotations is not None:
        sources, pictures = _labelled(sources, args.annotations)
    if sources is not None:
        default = _MOST_COMPARED if args.annotations is None else _MOST_LABELLED
        sources = sources[: args.max_check_images or default]
    calibrating = find_images(args.calibration)[:MOST_EXAMPLES] if args.calibration else []
    if args.config_file is None:
        detector = Detector(args.weights, device="cpu")
    else:
        detector = Detector.from_config(args.config_file, args.weights, args.opts, device="cpu")
    labels = None
    if args.annotations is not None:
        category_ids = KnownIds.read(args.annotations).of_classes(detector.class_names)
        image_ids = [picture.id for picture in pictures]
        labels = Labels(read_json(args.annotations), image_ids, category_ids)

    kind = FORMATS[args.output.suffix]
    module = Deployable(detector.predictor.model, args.top_k).eval()
    metadata = Metadata.of(detector, args.precision, args.size, module.smallest_side)
    calibration = _calibration(detector, calibrating, args.size)
    kind.write(trace(module, args.size), metadata, args.output, calibration)
    print(f"{args.output}: {kind.name}, {args.precision}")
    return _check(detector, args.output, _examples(detector, sources, args.size), limits, labels)


def _check(
    detector: Detector,
    path: Path,
    examples: Iterable[Example],
    limits: Limits,
    labels: Labels | None,
) -> int:
    """Compare a file with its model, say how they differ, and return the exit status."""
    runner, metadata = open_exported(path)
    size = None if metadata is None else metadata.size
    pairs = list(run_both(detector, runner, examples, size))
    found = difference(pairs, limits)
    print(found)
    exceeded = []
    if not found.within(limits) and (labels is None or limits.all_must_agree):
        exceeded.append(
            f"{limits.share:.0%} of the detections must be found again, within {limits.score:g} of "
            f"their scores and {limits.box:g} pixels of their boxes"
        )
    if labels is not None:
        of_model = labels.average_precision(pairs, lambda pair: pair.expected)
        of_file = labels.average_precision(pairs, lambda pair: pair.found)
        print(f"AP {of_model:.2f} of the model, {of_file:.2f} of the file")
        # Not a number where the images have no objects.
        if not abs(of_file - of_model) <= limits.ap:
            exceeded.append(f"AP must be within {limits.ap:g}")
    if size is not None:
        # So far the model was given padding, too, which may ruin it as much as the file.
        told = "may change what the model finds; with --annotations AP is told without it, too"
        if labels is not None:
            alone = labels.average_precision(pairs, lambda pair: pair.alone)
            told = f"changes the model, too: its AP is {alone:.2f} without"
        print(f"padding to {size[0]}x{size[1]} {told}")
    if not exceeded:
        return 0
    print(f"{path} differs too much from the model: {'; '.join(exceeded)}. It was not removed")
    return DIFFERS


def _check_arguments(args: argparse.Namespace) -> Limits:
    """Refuse what can't be done, before anything takes time."""
    kind = FORMATS.get(args.output.suffix)
    if kind is None:
        raise ExportError(f"OUTPUT must end in {' or '.join(FORMATS)}, not {args.output.name!r}")
    kind.require(args.precision)
    if (args.precision == "int8") != (args.calibration is not None):
        raise ExportError("--precision int8 and --calibration FOLDER, with images, go together")
    if not args.output.parent.is_dir():
        raise ExportError(f"there is no folder {args.output.parent} to write {args.output.name} to")
    outputs = [("OUTPUT", args.output)]
    if args.output.suffix == ".xml":
        outputs.append(("OpenVINO's second file", args.output.with_suffix(".bin")))
    read = [("WEIGHTS", find_weights(args.weights)), ("--annotations", args.annotations)]
    if mistake := replaced_file(outputs, read):
        raise ExportError(mistake)
    if args.opts and args.config_file is None:
        raise ExportError("--opts changes a config: name one with --config-file")
    if args.annotations is not None and args.check_images is None:
        raise ExportError("--annotations are those of --check-images: name these, too")
    given = {"score": args.score_limit, "box": args.box_limit, "ap": args.ap_limit}
    for name, value in given.items():
        if value is not None and not 0 <= value < math.inf:
            raise ExportError(f"--{name}-limit must not be negative, got {value}")
    known = {name: value for name, value in given.items() if value is not None}
    limits = replace(LIMITS[args.precision], **known)
    if args.annotations is not None and not limits.all_must_agree and known.keys() - {"ap"}:
        raise ExportError(
            f"in {args.precision}, AP alone decides where --annotations are given: leave "
            "--score-limit and --box-limit out"
        )
    return limits


def _labelled(
    sources: Sequence[AnyImage], annotations: Path
) -> tuple[list[AnyImage], list[Picture]]:
    """Return the images that annotations know, and their ids."""
    by_path = {Path(source.name): source for source in sources}
    pictures, _ = KnownIds.read(annotations).pictures(list(by_path))
    if not pictures:
        raise ExportError(f"none of the images is one of {annotations}")
    return [by_path[picture.file] for picture in pictures], pictures


def _calibration(
    detector: Detector, sources: Sequence[AnyImage], size: tuple[int, int] | None
) -> Calibration:
    """Read images for int8, each a batch of its own."""
    rng = np.random.default_rng(0)
    return [padded([e.image], size, rng) for e in _examples(detector, sources, size)]


def _examples(
    detector: Detector, sources: Sequence[AnyImage] | None, size: tuple[int, int] | None
) -> Iterator[Example]:
    """Yield images as large as the network sees them.

    Args:
        detector: which prepares them.
        sources: images; None for drawn ones.
        size: what they must fit into; None for no limit.
    """
    if sources is None:
        pictures = generated_images(_DRAWN_SHAPES)
    else:
        pictures = (to_pixels(source.content, detector.pixel_range) for source in sources)
    for picture in pictures:
        image = detector.predictor.prepare(picture)["image"]
        if detector.predictor.image_format == "BGR":
            image = image.flip(0)
        if size is not None:
            image = _fitted(image, size)
        yield Example(image.numpy(), picture.shape[:2])


def _fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrink an image (3, H, W) that is too large, as its sides are to each other."""
    scale = min(most / side for most, side in zip(size, image.shape[1:], strict=True))
    if scale >= 1:
        return image
    height, width = (max(int(side * scale), 1) for side in image.shape[1:])
    return resize_pixels(image, (height, width))
