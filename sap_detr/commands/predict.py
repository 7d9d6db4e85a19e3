"""Detect objects in images, a video or a webcam, and draw them."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from ..bad_files import BadFiles
from ..checkpoint import SCORED, CheckpointError, load_checkpoint_file, load_weights
from ..config import COCO_NUM_CLASSES, ConfigError, load_config, pixel_range
from ..data import (
    BadImageError,
    DatasetError,
    PixelRange,
    inspect_image,
    read_image,
)
from ..data import find_images as list_images
from ..data.findings import Kind
from ..detector import Detector
from ..engine import NonFiniteDetectionsError, build_model, choose_device, prepare_data
from ..text import listing
from ..visualization import (
    BoxSet,
    FrameReader,
    FrameWriter,
    VideoError,
    attention_sheet,
    draw_points,
    record_points,
)

SMALLEST_PICTURE = 640  # pixels of the long side, below which labels are hard to read
SMALLEST_WITH_POINTS = 1280  # points move within a small part of the picture
ESCAPE_KEY = 27

ClassNames = Sequence[str | None] | None
Pixels = NDArray[np.uint8]


class PredictError(ValueError):
    """What was asked for can't be done; the message says why."""


class ImageError(PredictError):
    """An image, or a folder of images, can't be used; others can."""


USER_ERRORS = (
    PredictError,
    VideoError,
    ConfigError,
    DatasetError,
    CheckpointError,
    NonFiniteDetectionsError,
    OSError,
)


def run(args: argparse.Namespace) -> int:
    """Check what can be checked before the model is built, then do what was asked for.

    Returns:
        The exit status.

    Raises:
        PredictError: or another of ``USER_ERRORS``, with what is wrong.
    """
    if args.weights is None and not args.random_weights:
        raise PredictError(
            "no weights: give --weights FILE (or --random-weights, whose boxes mean nothing)"
        )
    if not 0 <= args.threshold <= 1:
        raise PredictError(
            f"--threshold must be from 0 to 1, as scores are, got {args.threshold:g}"
        )
    if args.top_k < 1:
        raise PredictError(f"--top-k must be positive, got {args.top_k}")
    if args.max_frames is not None and args.max_frames < 1:
        raise PredictError(f"--max-frames must be positive, got {args.max_frames}")
    if args.points is not None and (args.input is None or args.points < 1):
        raise PredictError("--points needs images (--input), and at least one detection to draw")
    if args.output.exists() and not args.output.is_dir():
        raise PredictError(f"--output {args.output} is a file, it must be a folder")
    if args.input is not None:
        bad = BadFiles(ImageError, stop_at_first=args.stop_at_first_error)
        pixels = pixel_range(load_config(args.config_file, args.opts))
        images = find_images(args.input, pixels, bad)
        if not images:
            raise PredictError(listing(bad.reasons.values(), separator="; "))
        painter = Painter(build_detector(args), args.threshold, args.top_k)
        points = None if args.points is None else PointPainter(painter, args.points)
        args.output.mkdir(parents=True, exist_ok=True)
        num_drawn = detect_in_images(painter, images, pixels, args.output, bad, points)
        if bad.reasons:
            print(bad, file=sys.stderr)
        return bad.exit_status(num_drawn)
    reader = FrameReader(args.video if args.webcam is None else args.webcam)
    painter = Painter(build_detector(args), args.threshold, args.top_k)
    args.output.mkdir(parents=True, exist_ok=True)
    name = f"{args.video.stem}_detections" if args.webcam is None else f"webcam_{args.webcam}"
    out = args.output / f"{name}.mp4"
    detect_in_frames(painter, reader, out, args.max_frames, window=args.webcam is not None)
    return 0


@dataclass(frozen=True)
class Painter:
    """Draws what a detector finds: what images and videos have in common."""

    detector: Detector
    threshold: float
    top_k: int

    def __call__(self, image: Pixels, min_long_side: int = 0) -> tuple[Pixels, int]:
        """Return the image (H, W, 3; RGB) with its detections drawn, and how many these are."""
        shown = self.find(image)
        return self.detector.draw(image, shown, min_long_side=min_long_side), len(shown)

    def find(self, image: Pixels) -> Instances:
        """Return the detections that are to be shown, the best first."""
        (found,) = self.detector(image, threshold=self.threshold, max_detections=self.top_k)
        return found


class PointPainter:
    """Draws how the points of detections move, and what their queries look at.

    Args:
        painter: of a model that has points.
        num_rows: how many detections a sheet of attention has at most.

    Raises:
        PredictError: if the model has no points.
    """

    def __init__(self, painter: Painter, num_rows: int) -> None:
        self.painter = painter
        self.num_rows = num_rows
        model = painter.detector.predictor.model
        try:
            self.recorder = record_points(model.get_submodule("decoder"))
        except ValueError as error:
            raise PredictError(f"--points: {error}") from error

    def __call__(self, image: Pixels, title: str, sheet: Path) -> tuple[Pixels, int]:
        """Like the painter, with points; where something is detected, a sheet is written too."""
        detector = self.painter.detector
        with self.recorder:
            shown = self.painter.find(image)
        # A query may be detected as several classes: the best one counts.
        _, first = np.unique(shown.query_index.numpy(), return_index=True)
        queries = shown[torch.from_numpy(np.sort(first))]
        traces = self.recorder.traces(queries.query_index.tolist())
        drawn = detector.draw(image, shown, min_long_side=SMALLEST_WITH_POINTS)
        drawn = draw_points(drawn, traces, queries.pred_classes.tolist())
        if traces:
            best = BoxSet.from_instances(queries[: self.num_rows])
            best_traces = traces[: self.num_rows]
            attention_sheet(image, best, best_traces, sheet, detector.class_names, title=title)
        return drawn, len(shown)


def build_detector(args: argparse.Namespace) -> Detector:
    """Model, weights and class names of a command line.

    The classes are those named in the checkpoint, else those of the config's data set; failing
    that, they are numbered.

    Raises:
        ConfigError, CheckpointError, DatasetError, OSError: with what is wrong.
    """
    cfg = load_config(args.config_file, args.opts)
    if args.device is not None:
        cfg.train.device = args.device
    choose_device(cfg.train.device)
    checkpoint = None if args.weights is None else load_checkpoint_file(args.weights)
    names: ClassNames = None if checkpoint is None else checkpoint.get("class_names")
    if names is None:
        names = _class_names_of_data(cfg)
    else:
        cfg.model.num_classes = len(names)
    model = build_model(cfg)
    if checkpoint is not None:
        report = load_weights(
            model,
            checkpoint,
            class_names=names,
            source=str(args.weights),
            weights=cfg.train.get("weights", SCORED),
        )
        report.require_complete()
        print(report.headline)
    mapper = instantiate(cfg.dataloader.test.mapper)
    return Detector.from_model(
        model, mapper.augmentations, names, mapper.image_format, pixel_range(cfg)
    )


def _class_names_of_data(cfg: DictConfig) -> ClassNames:
    """Names of the config's classes, whose number is set; None if only the number is known."""
    given = cfg.model.num_classes
    try:
        return prepare_data(cfg)
    except (ConfigError, DatasetError, FileNotFoundError) as error:
        if given in (None, COCO_NUM_CLASSES):
            raise PredictError(
                "the classes are not known: the weights hold no class names, and the config's data "
                f"set can't be used ({error}). Add --opts model.num_classes=NUMBER"
            ) from error
        return None


def find_images(paths: Sequence[Path], pixels: PixelRange, bad: BadFiles) -> list[Path]:
    """Return the images that files and folders (without their sub-folders) stand for, in order.

    Of a folder these are the files that are named like an image of a known format and not hidden;
    how many files are left out is printed.

    Args:
        paths: files and folders.
        pixels: what becomes of images of more than 8 bits.
        bad: gets paths that are missing, files that are no images, and folders without images.

    Raises:
        ImageError: for the first of these, if it is to stop there.
    """
    images: list[Path] = []
    for path in paths:
        with bad.skipping(path):
            for file in _images_of_folder(path) if path.is_dir() else [path]:
                with bad.skipping(file):
                    if not file.is_file():
                        raise ImageError(f"there is no file or folder {file}")
                    with _image_errors(file):
                        inspect_image(file, pixel_range=pixels)
                    images.append(file)
    return images


def _images_of_folder(folder: Path) -> list[Path]:
    try:
        files = {path for path in folder.iterdir() if path.is_file()}
        images = [found.content for found in list_images(folder)]
    except OSError as error:
        raise ImageError(f"the folder {folder} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ImageError(str(error)) from error
    if others := sorted(files.difference(images)):
        names = listing((file.name for file in others), most=3)
        print(f"{folder}: left out, as hidden or not named like an image: {names}")
    return images


@contextlib.contextmanager
def _image_errors(path: Path) -> Iterator[None]:
    """Make ImageErrors, which name the file, of what is wrong with an image."""
    try:
        yield
    except BadImageError as error:
        remedy = f"; {error.kind.remedy}" if error.kind is Kind.UNUSABLE_PIXELS else ""
        raise ImageError(f"{path} can't be read as an image: {error.reason}{remedy}") from error
    except NonFiniteDetectionsError as error:
        raise ImageError(f"{path}: {error}") from error


def output_files(images: Sequence[Path], folder: Path) -> list[Path]:
    """One PNG file per image; those of the same name are numbered, so that none replaces another.

    A file that is itself among the images is never chosen.
    """
    taken = {image.resolve() for image in images}
    files = []
    for image in images:
        stems = itertools.chain([image.stem], (f"{image.stem}_{i}" for i in itertools.count(2)))
        file = next(
            file for stem in stems if (file := folder / f"{stem}.png").resolve() not in taken
        )
        taken.add(file.resolve())
        files.append(file)
    return files


def detect_in_images(
    painter: Painter,
    images: Sequence[Path],
    pixels: PixelRange,
    folder: Path,
    bad: BadFiles,
    points: PointPainter | None = None,
) -> int:
    """Write one picture per image, small ones enlarged; with points, sheets of attention too.

    Args:
        painter: finds and draws.
        images: files.
        pixels: what becomes of images of more than 8 bits.
        folder: where to write.
        bad: gets images that turn out to be damaged, or on which the model's predictions are not
            finite.
        points: draws points as well.

    Returns:
        The number of images that were drawn.

    Raises:
        ImageError: for the first bad image, if it is to stop there.
    """
    sheets = output_files(images, folder / "attention")
    num_drawn = 0
    for path, out, sheet in zip(images, output_files(images, folder), sheets, strict=True):
        with bad.skipping(path), _image_errors(path):
            image = read_image(path, pixel_range=pixels)
            if points is None:
                drawn, count = painter(image, min_long_side=SMALLEST_PICTURE)
            else:
                drawn, count = points(image, path.name, sheet)
            Image.fromarray(drawn).save(out)
            num_drawn += 1
            see = f"{out} and {sheet}" if points is not None and count else out
            print(f"{path}: {count} {'object' if count == 1 else 'objects'}, see {see}")
    return num_drawn


def detect_in_frames(
    painter: Painter, reader: FrameReader, out: Path, max_frames: int | None, window: bool
) -> None:
    """Write a video until the frames end or the user stops it: Ctrl-C, Escape in the window.

    Raises:
        VideoError: if it can't be written, or the model's predictions for a frame are not finite.
    """
    frames = itertools.islice(reader, max_frames)
    total = min(filter(None, (reader.num_frames, max_frames)), default=None)
    done = 0
    with FrameWriter(out, reader.rate) as writer, contextlib.suppress(KeyboardInterrupt):
        for frame in tqdm(frames, total=total, desc=reader.name, unit="frame"):
            try:
                drawn, _ = painter(frame)
            except NonFiniteDetectionsError as error:
                raise VideoError(f"{reader.name}, frame {done + 1}: {error}") from error
            writer.write(drawn)
            done += 1
            if window:
                try:
                    cv2.imshow(reader.name, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                    if cv2.waitKey(1) == ESCAPE_KEY:
                        break
                except cv2.error:
                    window = False
                    print("this OpenCV shows no windows: recording only, Ctrl-C to stop")
    print(f"{reader.name}: {done} frames, see {out}")
