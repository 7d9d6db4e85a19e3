"""A report on disk: a folder with ``results.json`` and ``report.html``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import PixelRange
from ..data.pixels import FULL_RANGE
from ..weights_files import sha256_of_file
from .bootstrap import compare
from .dataset import EvaluationError, read_json
from .page import make_page
from .report import FORMAT, evaluate, summarize, without_nan

SUMMARY_FILE = "results.json"
PAGE_FILE = "report.html"
# Detectron2's name of COCO's list of detections.
DETECTIONS_FILE = "coco_instances_results.json"


@dataclass(frozen=True)
class Source:
    """What a report is about.

    Attributes:
        annotations: COCO's annotation file.
        results: COCO's file of detections.
        images: folder of the images; None if they are not to be shown.
        weights: what has found the detections; None if that is not known.
        pixel_range: for images of more than 8 bits.
    """

    annotations: Path
    results: Path
    images: Path | None = None
    weights: Path | None = None
    pixel_range: PixelRange = FULL_RANGE

    def describe(self) -> dict[str, Any]:
        """Return the names, and a checksum of the weights, by which they are known again."""
        return {
            "annotations": str(self.annotations),
            "results": str(self.results),
            "weights": None if self.weights is None else str(self.weights),
            "weights_sha256": None if self.weights is None else sha256_of_file(self.weights),
        }


def write_report(source: Source, folder: Path, against: Path | None = None) -> list[Path]:
    """Evaluate, and write a report.

    Args:
        source: what it is about.
        folder: where to write; it is made if it is missing.
        against: another file of detections in the same images, to compare with.

    Returns:
        The files that were written.

    Raises:
        EvaluationError: a file can't be used.
        OSError: the folder can't be written to.
    """
    annotations, results = read_json(source.annotations), read_json(source.results)
    evaluation = evaluate(annotations, results, str(source.annotations), str(source.results))
    summary = {**summarize(evaluation), "source": source.describe()}
    if against is not None:
        other = evaluate(annotations, read_json(against), str(source.annotations), str(against))
        summary["against"] = {"name": str(against), **without_nan(compare(evaluation, other))}
    folder.mkdir(parents=True, exist_ok=True)
    page = make_page(evaluation, summary, source.images, source.pixel_range)
    contents = {
        SUMMARY_FILE: json.dumps(summary, indent=1, allow_nan=False) + "\n",
        PAGE_FILE: page,
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


def best_thresholds(summary: dict[str, Any]) -> dict[str, float]:
    """Return the best threshold of each class, by its name.

    That of all classes together stands in for a class of which nothing was found.

    Args:
        summary: of :func:`read_summary`.

    Raises:
        EvaluationError: nothing was found at all.
    """
    overall = summary["threshold"]["score"]
    if overall is None:
        raise EvaluationError("the report has no thresholds: no detection found an object")
    return {
        c["name"]: overall if c["threshold"] is None else c["threshold"]["score"]
        for c in summary["classes"]
    }


def detections_file(path: Path) -> Path:
    """Return the file of detections that a path stands for.

    Args:
        path: the folder of a report, its ``results.json``, or a file of detections.

    Raises:
        EvaluationError: the detections of the report are gone.
    """
    if not path.is_dir() and path.name != SUMMARY_FILE:
        return path
    folder = path if path.is_dir() else path.parent
    known = [folder / DETECTIONS_FILE, Path(read_summary(path)["source"]["results"])]
    for file in known:
        if file.is_file():
            return file
    raise EvaluationError(f"{path}: its detections, {known[1]}, are gone")


def read_summary(path: Path) -> dict[str, Any]:
    """Read the ``results.json`` of a report.

    Args:
        path: the file, or the folder of the report.

    Raises:
        EvaluationError: there is none, or of another version.
    """
    path = path / SUMMARY_FILE if path.is_dir() else path
    summary = read_json(path)
    if not isinstance(summary, dict) or summary.get("format") != FORMAT:
        raise EvaluationError(
            f"{path} is no {SUMMARY_FILE} of a report of this version: write one with sap-detr "
            "eval --report FOLDER"
        )
    return summary
