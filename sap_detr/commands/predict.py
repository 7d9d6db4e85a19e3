"""Detect objects in images, a video or a webcam; draw them, or write them down."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from ..arguments import replaced_file
from ..bad_files import BadFiles
from ..checkpoint import load_checkpoint_file
from ..config import COCO_NUM_CLASSES, ConfigError, load_config, pixel_range
from ..data import DatasetError, image_suffixes
from ..detector import Detector
from ..engine import prepare_data
from ..results import KnownIds, Parts, Picture, Shard, numbered_pictures
from ..text import listing
from ..tiles import tile_grid
from ..visualization import FrameReader, check_points, class_name
from ..weights_files import find_weights, sha256_of_file
from .painting import Painter, detect_in_frames
from .picture_files import ImageError, PredictError, is_usable, list_files, output_files
from .picture_job import PictureJob, ResultFiles, digest_of, image_list_of

DEFAULT_FOLDER = Path("output/demo")
# What is drawn, or stands in a table, unless something else is asked for.
DEFAULT_THRESHOLD, DEFAULT_TOP_K = 0.5, 100
INTERRUPTED = 130

ClassNames = Sequence[str | None] | None


def run(args: argparse.Namespace) -> int:
    """Check what can be checked before the model is built, then do what was asked for.

    Returns:
        The exit status.

    Raises:
        PredictError: or another ``UserError``, with what is wrong.
    """
    if args.weights is not None:
        args.weights = find_weights(args.weights)
    _check(args)
    if args.input is not None:
        return _detect_in_pictures(args)
    reader = FrameReader(args.video if args.webcam is None else args.webcam)
    folder = args.draw or DEFAULT_FOLDER
    painter = _painter(args, build_detector(args))
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{args.video.stem}_detections" if args.webcam is None else f"webcam_{args.webcam}"
    out = folder / f"{name}.mp4"
    if mistake := replaced_file([("the video with detections", out)], [("--video", args.video)]):
        raise PredictError(mistake)
    return detect_in_frames(painter, reader, out, args.max_frames, window=args.webcam is not None)


def _check(args: argparse.Namespace) -> None:
    """Find what contradicts itself on the command line.

    Raises:
        PredictError: with what that is.
    """
    if args.weights is None and not args.random_weights:
        raise PredictError(
            "no weights: give --weights FILE (or --random-weights, whose boxes mean nothing)"
        )
    if args.config_file is None and args.weights is None:
        raise PredictError("--random-weights need --config-file")
    if args.config_file is None and args.opts:
        raise PredictError("--opts changes a config: give it with --config-file")
    if args.threshold not in (None, "best") and not 0 <= args.threshold <= 1:
        raise PredictError(
            f"--threshold must be from 0 to 1, as scores are, got {args.threshold:g}"
        )
    if args.points is not None and (args.input is None or args.points < 1):
        raise PredictError("--points needs images (--input), and at least one detection to draw")
    if args.points is not None and (args.tile is not None or args.batch_size > 1):
        raise PredictError(
            "--points is for whole images, one at a time: without --tile, --batch-size"
        )
    if args.tile is not None:
        try:
            tile_grid((1, 1), args.tile[:2], args.tile[2])
        except ValueError as error:
            raise PredictError(f"--{error}") from error
    if args.draw is not None and args.draw.exists() and not args.draw.is_dir():
        raise PredictError(f"--draw {args.draw} is a file, it must be a folder")
    if args.shard != "1/1" and args.input is None:
        raise PredictError("--shard is for images (--input), not for videos")
    if args.max_frames is not None and args.input is not None:
        raise PredictError("--max-frames is for --video and --webcam, not for images (--input)")
    _check_results(args)


def _check_results(args: argparse.Namespace) -> None:
    given = [path for path in (args.json, args.csv) if path is not None]
    if given and args.input is None:
        raise PredictError("--json and --csv are for images (--input), not for videos")
    if args.annotations is not None and not given:
        raise PredictError("--annotations gives ids to --json or --csv: add one of them")
    if args.resume and not given:
        raise PredictError("--resume goes on with --json or --csv: add one of them")
    for path in given:
        if not path.parent.is_dir():
            raise PredictError(f"{path}: the folder {path.parent} does not exist")
        if path.is_dir():
            raise PredictError(f"{path} is a folder, it must be a file")
        if path.suffix.lower() in image_suffixes():
            raise PredictError(f"{path} is named like a picture: name it .json or .csv")
    outputs = [("--json", args.json), ("--csv", args.csv)]
    if given and args.annotations is None:
        outputs.append(("the list of images", image_list_of(given[0])))
    read = [("--annotations", args.annotations), ("--weights", args.weights)]
    read += [("--config-file", Path(args.config_file))] if args.config_file else []
    read += [("--input", path) for path in args.input or ()]
    if mistake := replaced_file([(name, path) for name, path in outputs if path], read):
        raise PredictError(mistake)


def _painter(args: argparse.Namespace, detector: Detector) -> Painter:
    threshold = DEFAULT_THRESHOLD if args.threshold is None else args.threshold
    try:
        detector.lowest_scores(threshold)
    except ValueError as error:
        raise PredictError(f"--{error}") from error
    top_k = DEFAULT_TOP_K if args.top_k is None else args.top_k
    # The best thresholds differ by class: the detector goes by them.
    shown = 0.0 if threshold == "best" else threshold, top_k
    if args.json is not None:
        # AP needs all.
        threshold, top_k = args.threshold or 0.0, args.top_k
    options: dict[str, Any] = {
        "threshold": threshold,
        "max_detections": top_k,
        "classes": _class_numbers(args, detector),
        "batch_size": args.batch_size,
        "tile": None if args.tile is None else tuple(args.tile),
    }
    if args.points is not None:
        try:
            check_points(detector.predictor.model.get_submodule("decoder"))
        except ValueError as error:
            raise PredictError(f"--points: {error}") from error
    return Painter(detector, options, *shown)


def _class_numbers(args: argparse.Namespace, detector: Detector) -> list[int] | None:
    if args.classes is None:
        return None
    names = detector.class_names or ()
    wanted = [int(c) if c.isdecimal() and c not in names else c for c in args.classes]
    try:
        return detector.class_numbers(wanted)
    except ValueError as error:
        raise PredictError(f"--classes: {error}") from error


def _detect_in_pictures(args: argparse.Namespace) -> int:
    shard, local_rank = Shard.parse(args.shard).within(os.environ)
    if local_rank is not None and args.device is None and torch.cuda.is_available():
        args.device = f"cuda:{local_rank % torch.cuda.device_count()}"
    result: Path | None = args.json or args.csv
    if result is not None and result.exists() and not Parts.folder_of(result).exists():
        if args.resume:
            _require_outputs(args, result)
            print(
                f"{result} is there already: nothing to do. It is kept, whatever pictures and "
                "options it was made with, as --resume goes on with unfinished results only. "
                "Delete it to have it made again"
            )
            return 0
        if shard.count > 1:
            raise PredictError(f"{result} is there already: delete it, or name another file")
    bad = BadFiles(ImageError, stop_at_first=args.stop_at_first_error)
    pictures, known = _numbered(list_files(args.input, bad), args.annotations, bad)
    detector = build_detector(args) if args.config_file is None else None
    pixels = (
        detector.pixel_range if detector else pixel_range(load_config(args.config_file, args.opts))
    )
    own = list(shard.of(pictures))
    if not args.resume:
        # Else it is not known yet which of them are done; what is bad shows when it is read.
        own = [picture for picture in own if is_usable(picture.file, pixels, bad)]
    if not own and (shard.count == 1 or not pictures):
        raise PredictError(listing(bad.reasons.values(), separator="; "))
    detector = detector or build_detector(args)
    painter = _painter(args, detector)
    results = None if result is None else _result_files(args, painter, known)
    job = PictureJob(
        painter,
        pixels,
        bad,
        args.batch_size,
        _drawings(args, pictures),
        args.points,
        results,
    )
    try:
        if results is None:
            num_used = job.run(own)
        else:
            plan = _plan(args, pictures, results)
            with Parts(results.first, shard, plan, args.resume) as parts:
                num_used = _fill(parts, job, own)
                _merge(parts, results, bad)
    except KeyboardInterrupt:
        remedy = "" if results is None else ": go on with --resume"
        print(f"interrupted{remedy}", file=sys.stderr)
        return INTERRUPTED
    if bad.reasons:
        print(bad, file=sys.stderr)
    return bad.exit_status(num_used)


def _require_outputs(args: argparse.Namespace, result: Path) -> None:
    """See that a finished job left all that is asked for now.

    Raises:
        PredictError: something is missing.
    """
    for path in (args.json, args.csv, args.draw):
        if path is not None and not path.exists():
            raise PredictError(
                f"{result} is there already, and {path} is not: --resume goes on with unfinished "
                f"results only. Delete {result} to have both made, or name another result"
            )


def _numbered(
    files: Sequence[Path], annotations: Path | None, bad: BadFiles
) -> tuple[list[Picture], KnownIds | None]:
    """Give pictures their ids."""
    if annotations is None:
        return numbered_pictures(files), None
    known = KnownIds.read(annotations)
    pictures, unknown = known.pictures(files)
    for file in unknown:
        with bad.skipping(file):
            raise ImageError(f"{file} is not among the images of {annotations}")
    return pictures, known


def _result_files(
    args: argparse.Namespace, painter: Painter, known: KnownIds | None
) -> ResultFiles:
    names = painter.detector.class_names
    if known is not None:
        category_ids = known.of_classes(names, painter.options["classes"])
        category_names = {number: name for name, number in known.categories.items()}
    else:
        category_ids = None
        number = getattr(painter.detector.predictor.model, "num_classes", len(names or ()))
        category_names = {index: class_name(names, index) for index in range(number)}
    return ResultFiles(
        args.json, args.csv, painter.threshold, category_ids, category_names, known is None
    )


def _plan(
    args: argparse.Namespace, pictures: Sequence[Picture], results: ResultFiles
) -> dict[str, Any]:
    """Say what must be the same in all processes, and when a job is gone on with."""
    return {
        "number of pictures": len(pictures),
        "list of pictures": digest_of(pictures),
        "weights": None if args.weights is None else sha256_of_file(args.weights),
        "config": args.config_file,
        "changes to the config": args.opts,
        "classes": args.classes,
        "categories": results.category_ids,
        "threshold": args.threshold,
        "top-k": args.top_k,
        "tile": args.tile,
        "table": args.csv is not None,
        "folder of drawings": None if args.draw is None else str(args.draw),
        "points": args.points,
    }


def _drawings(
    args: argparse.Namespace, pictures: Sequence[Picture]
) -> dict[int, tuple[Path, Path]] | None:
    """Name the drawings of all, so that no process draws over another's."""
    if args.draw is None and (args.json is not None or args.csv is not None):
        return None
    folder = args.draw or DEFAULT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = [picture.file for picture in pictures]
    drawn, sheets = (output_files(files, place) for place in (folder, folder / "attention"))
    numbers = (picture.number for picture in pictures)
    return dict(zip(numbers, zip(drawn, sheets, strict=True), strict=True))


def _fill(parts: Parts, job: PictureJob, pictures: Sequence[Picture]) -> int:
    """Go through a shard, unless that was done; returns how many pictures could be used.

    Pictures that were left out are looked at again.
    """
    if parts.is_done and not parts.reopen():
        return len(parts.done)
    num_used = job.run(pictures, parts)
    parts.finish(job.bad.reasons)
    return num_used


def _merge(parts: Parts, results: ResultFiles, bad: BadFiles) -> None:
    left_out = parts.merge(results.write)
    if left_out is None:
        print(
            f"shard {parts.shard} is done; {results.first} is written when all are. If none does, "
            "run one again with --resume"
        )
        return
    bad.reasons.update(left_out)


def build_detector(args: argparse.Namespace) -> Detector:
    """Model, weights and class names of a command line.

    Weights that describe their model need no config. With one, the classes are those named in the
    checkpoint, else those of the config's data set; failing that, they are numbered.

    Raises:
        ConfigError, CheckpointError, DatasetError, OSError: with what is wrong.
    """
    if args.config_file is None:
        return Detector(args.weights, args.device)
    cfg = load_config(args.config_file, args.opts)
    if args.device is not None:
        cfg.train.device = args.device
    checkpoint = None if args.weights is None else load_checkpoint_file(args.weights)
    names: ClassNames = None if checkpoint is None else checkpoint.get("class_names")
    if names is None:
        names = _class_names_of_data(cfg)
    detector, report = Detector.from_checkpoint(cfg, checkpoint, str(args.weights), names)
    if report is not None:
        print(report.headline)
    return detector


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
