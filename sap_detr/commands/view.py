"""Write a page in which to look at attention, points and boxes."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data import find_images, to_pixels
from ..detector import Detector
from ..engine import NonFiniteDetectionsError
from ..errors import UserError
from ..visualization import ShownModel, ShownPicture, explain, write_page

# More do not fit into a page in any useful way.
MOST_PICTURES = 24


class ViewError(UserError, ValueError):
    """What was asked for can't be shown; the message says why."""


def run(args: argparse.Namespace) -> int:
    """Detect, and write the page.

    Returns:
        The exit status.

    Raises:
        ViewError: or another ``UserError``, with what is wrong.
    """
    _check(args)
    try:
        sources = find_images(args.input)
    except ValueError as error:
        raise ViewError(str(error)) from error
    if not 1 <= len(sources) <= MOST_PICTURES:
        raise ViewError(f"--input has {len(sources)} images, a page has 1 to {MOST_PICTURES}")
    detectors = _detectors(args)
    pictures = []
    for source in sources:
        found = []
        for detector in detectors:
            try:
                image = to_pixels(source.content, detector.pixel_range)
                found.append(explain(detector.predictor, image, args.queries, args.threshold))
            except NonFiniteDetectionsError as error:
                raise NonFiniteDetectionsError(f"{source.name}: {error}") from error
            except ValueError as error:
                raise ViewError(f"{source.name}: {error}") from error
        pictures.append(ShownPicture(Path(source.name).name, image, found))
        print(f"{source.name}: {len(found[0].detected)} detections")
    models = [
        ShownModel(name, detector.class_names)
        for name, detector in zip(_names(args.weights), detectors, strict=True)
    ]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = write_page(pictures, models, args.output)
    except ValueError as error:
        raise ViewError(str(error)) from error
    missing = f", no room for {written['left_out']}" if written["left_out"] else ""
    size = f"{written['bytes'] / 1e6:.1f} MB"
    print(f"see {args.output}: {size}, attention of {written['kept']} queries{missing}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Check what can be checked before models are built."""
    if len(args.weights) > 2:
        raise ViewError(f"--weights takes one file or two, got {len(args.weights)}")
    if len(args.config_file) not in (0, 1, len(args.weights)):
        raise ViewError(
            f"--config-file takes one config, or one for each of the {len(args.weights)} weights; "
            f"got {len(args.config_file)}"
        )
    if args.opts and not args.config_file:
        raise ViewError("--opts changes a config: give --config-file as well")
    if not 0 <= args.threshold <= 1:
        raise ViewError(f"--threshold must be from 0 to 1, as scores are, got {args.threshold:g}")
    if args.output.is_dir():
        raise ViewError(f"--output {args.output} is a folder, it must be a file such as view.html")


def _detectors(args: argparse.Namespace) -> list[Detector]:
    configs = args.config_file * (len(args.weights) if len(args.config_file) == 1 else 1)
    if not configs:
        return [Detector(weights, args.device) for weights in args.weights]
    return [
        Detector.from_config(config, weights, args.opts, args.device)
        for config, weights in zip(configs, args.weights, strict=True)
    ]


def _names(weights: list[str]) -> list[str]:
    """Return the files' names, with their folders where they would be the same."""
    names = [Path(path).name for path in weights]
    return names if len(set(names)) == len(names) else weights
