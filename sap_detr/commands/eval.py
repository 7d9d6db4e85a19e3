"""Evaluate weights on the validation data of a config, and report on detections."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from omegaconf import DictConfig

from ..config import ConfigError, as_list, find_target, load_config, pixel_range
from ..engine.topology import find_topology
from ..evaluation import EvaluationError, Source, write_report
from ..evaluation.folder import DETECTIONS_FILE, detections_file
from ..weights_files import find_weights
from . import train

AGAINST = "against"  # folder in that of the report for the detections of other weights


def run(args: argparse.Namespace) -> int:
    """Evaluate, or report on detections that are there; return the exit status.

    Raises:
        EvaluationError: or another ``UserError``, with what is wrong.
    """
    _check_options(args)
    against = _other_detections(args)
    if args.results is not None:
        source = Source(args.annotations, args.results, args.images)
        _print_files(write_report(source, args.report, against))
        return 0
    opts = list(args.opts)
    if args.weights is not None:
        opts.append(f"train.init_checkpoint={find_weights(args.weights)}")
    if args.report is None:
        return _evaluate(args, opts)
    cfg = load_config(args.config_file, opts)
    name = _evaluated_set(cfg)
    args.report.mkdir(parents=True, exist_ok=True)
    folders = {args.report: opts}
    if args.against is not None and against is None:
        other = find_weights(args.against)
        folders[args.report / AGAINST] = [*opts, f"train.init_checkpoint={other}"]
        against = args.report / AGAINST / DETECTIONS_FILE
    for folder, changes in folders.items():
        status = _evaluate(args, [*changes, f"+dataloader.evaluator.output_dir={folder}"])
        if status != 0:
            return status
        # The same detections as tensors, which nothing reads.
        (folder / "instances_predictions.pth").unlink(missing_ok=True)
    if find_topology(args, os.environ).rank != 0:
        return 0
    metadata = MetadataCatalog.get(name)
    weights = Path(cfg.train.init_checkpoint)
    source = Source(
        Path(metadata.json_file),
        args.report / DETECTIONS_FILE,
        Path(metadata.image_root),
        weights if weights.is_file() else None,
        pixel_range(cfg),
    )
    _print_files(write_report(source, args.report, against))
    return 0


def _other_detections(args: argparse.Namespace) -> Path | None:
    """Return the detections of --against; None if there are none yet, or none are asked for.

    Raises:
        EvaluationError: there is nothing to compare with.
    """
    if args.against is None:
        return None
    if args.against.is_dir() or args.against.suffix == ".json":
        return detections_file(args.against)
    if args.results is not None:
        raise EvaluationError(
            f"--against {args.against}: with --results, a report or another file of results (.json)"
        )
    return None


def _evaluate(args: argparse.Namespace, opts: list[str]) -> int:
    options = {**vars(args), "opts": opts, "eval_only": True, "resume": False}
    return train.run(argparse.Namespace(**options))


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        EvaluationError: with what to do.
    """
    if args.results is None and args.config_file is None:
        raise EvaluationError(
            "name a config with --config-file FILE, or detections that are there with --results "
            "FILE --annotations FILE --report FOLDER"
        )
    if args.results is not None:
        if args.config_file is not None or args.weights is not None:
            raise EvaluationError("--results: without --config-file and --weights, nothing is run")
        if args.annotations is None or args.report is None:
            raise EvaluationError("--results needs --annotations FILE and --report FOLDER")
    elif args.annotations is not None or args.images is not None:
        raise EvaluationError("--annotations and --images belong to --results FILE")
    if args.against is not None and args.report is None:
        raise EvaluationError("--against needs --report FOLDER, where the comparison goes")
    if args.report is not None and args.report.exists() and not args.report.is_dir():
        raise EvaluationError(f"--report {args.report} is a file, it must be a folder")
    for name in ("results", "annotations", "images", "against"):
        path = getattr(args, name)
        path = path and find_weights(path) if name == "against" else path
        if path is not None and not path.exists():
            raise EvaluationError(f"--{name}: there is no {path}")


def _evaluated_set(cfg: DictConfig) -> str:
    """Return the name of the data set that a report will be about.

    Raises:
        ConfigError: there is not just one, or it is not evaluated as COCO does.
    """
    names = as_list(cfg.dataloader.test.dataset.names)
    if len(names) != 1:
        raise ConfigError(
            f"--report is about one data set, dataloader.test.dataset.names has {len(names)}: name "
            "one with dataloader.test.dataset.names=NAME"
        )
    target = find_target("dataloader.evaluator", cfg.dataloader.evaluator)
    if not (isinstance(target, type) and issubclass(target, COCOEvaluator)):
        raise ConfigError("--report needs COCOEvaluator as dataloader.evaluator")
    return str(names[0])


def _print_files(files: Iterable[Path]) -> None:
    print(f"see {', '.join(map(str, files))}")
