"""Runs the checks over the splits of a data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ..checks import (
    inspect_coco,
    inspect_dataset_dicts,
    load_dataset,
    read_json,
    repair_for_evaluation,
    require_dataset,
)
from ..errors import DatasetError
from ..files import name_image, scan_image_files
from ..findings import Example, Findings
from ..images import ImageFacts
from . import odd

Json = dict[str, Any]

# How many examples of each kind are kept, for the written report.
MAX_EXAMPLES = 1000


@dataclass(frozen=True)
class Source:
    """A split to inspect: annotations in COCO format, or a name in Detectron2's catalog.

    Args:
        name: what to call it; without a file, the registered name.
        json_file: its annotations.
        image_root: folder that file names are relative to.
    """

    name: str
    json_file: Path | None = None
    image_root: Path | None = None

    @classmethod
    def registered(cls, name: str) -> Source:
        """A registered data set; of those in COCO format the files are inspected themselves.

        Raises:
            DatasetError: if the name is unknown.
            FileNotFoundError: if the annotation file is missing.
        """
        require_dataset(name)
        metadata = MetadataCatalog.get(name)
        json_file, root = metadata.get("json_file", None), metadata.get("image_root", None)
        if metadata.get("evaluator_type", None) != "coco" or not json_file or not root:
            return cls(name)
        return cls(name, Path(json_file), Path(root))


@dataclass
class SplitInspection:
    """What a split holds, as far as it can be read.

    Attributes:
        source: what was inspected.
        findings: what is wrong.
        class_names: in the order of the class indices; None if they are not known.
        dicts: standard dicts; boxes are clipped to their images.
        facts: what the image files' headers say, by file name.
    """

    source: Source
    findings: Findings
    class_names: list[str] | None = None
    dicts: list[Json] = field(default_factory=list)
    facts: dict[str, ImageFacts] = field(default_factory=dict)

    def objects_per_image(self) -> list[int]:
        """Annotations of each image other than crowds."""
        return [sum(1 for _ in objects(record)) for record in self.dicts]

    def num_crowd(self) -> int:
        """Crowd annotations."""
        return sum(len(r.get("annotations", ())) for r in self.dicts) - sum(
            self.objects_per_image()
        )

    def class_counts(self) -> Counter[int]:
        """Annotations other than crowds, by class index."""
        return Counter(a["category_id"] for r in self.dicts for a in objects(r))

    def image_counts(self) -> Counter[int]:
        """Images that a class occurs in, by class index."""
        return Counter(c for r in self.dicts for c in {a["category_id"] for a in objects(r)})

    def image_sizes(self) -> list[tuple[int, int]]:
        """Width and height of the images that can be read, upright."""
        return [facts.upright_size for facts in self.facts.values()]


@dataclass
class Inspection:
    """A data set.

    Attributes:
        splits: the first is the one that is trained on.
        findings: what is wrong between the splits.
    """

    splits: list[SplitInspection]
    findings: Findings

    def all_findings(self) -> list[Findings]:
        """Those of the splits, then those between them."""
        return [*(split.findings for split in self.splits), self.findings]


def objects(record: Json) -> Iterator[Json]:
    """The annotations of a standard dict that are no crowds."""
    return (a for a in record.get("annotations", ()) if not a.get("iscrowd", 0))


def inspect_splits(
    sources: Sequence[Source],
    pool: Executor,
    *,
    num_queries: int | None = None,
    decode: bool = False,
    progress: Callable[[SplitInspection], Callable[[int], object]] | None = None,
) -> Inspection:
    """Check annotations and image files.

    Args:
        sources: the splits; the first is the one that is trained on.
        pool: reads the images.
        num_queries: of the model that is to be trained; images with more objects are noted.
        decode: decode all pixels. Otherwise headers and the ends of files are read, and whole files
            only where two look alike.
        progress: called with each split before its images are read; what it returns is called with
            the number of images that are done.

    Raises:
        DatasetError: if a process of the pool dies.
    """
    splits = []
    for index, source in enumerate(sources):
        split = SplitInspection(source, Findings(source.name, MAX_EXAMPLES))
        splits.append(split)
        try:
            _read_annotations(split, training=index == 0)
        except (DatasetError, FileNotFoundError) as error:
            split.findings.add("annotation files that can't be used", Example("", str(error)))
            continue
        split.facts = scan_image_files(
            split.dicts,
            split.findings,
            pool,
            decode=decode,
            progress=None if progress is None else progress(split),
        )
        odd.check_images(split.dicts, split.facts, source.image_root, split.findings)
        odd.check_boxes(split.dicts, split.findings)
        if num_queries is not None:
            odd.check_num_queries(split.dicts, num_queries, split.findings)
    result = Inspection(splits, Findings("data set", MAX_EXAMPLES))
    _compare_classes(result)
    _find_copies(result, pool)
    return result


def _read_annotations(split: SplitInspection, training: bool) -> None:
    source, findings = split.source, split.findings
    if source.json_file is None or source.image_root is None:
        dicts = load_dataset(source.name)
        names = MetadataCatalog.get(source.name).get("thing_classes", None)
        inspect_dataset_dicts(dicts, names, findings, name=source.name)
        usable = [d for d in dicts if isinstance(d.get("file_name"), (str, os.PathLike))]
        if findings.of("error"):
            # Boxes and classes can't be relied on.
            usable = [{**record, "annotations": []} for record in usable]
        split.dicts, split.class_names = usable, None if names is None else list(names)
    else:
        content = read_json(source.json_file)
        inspected = inspect_coco(
            content, str(source.image_root), findings, require_annotations=training
        )
        split.dicts, split.class_names = inspected.dicts, list(inspected.categories.values())
        if not findings.of("error"):
            repair_for_evaluation(content, findings)
    if training and not any(split.objects_per_image()) and not findings.of("error"):
        what = "there is not one that can be trained on"
        findings.add("no annotations", Example("", what))


def _compare_classes(inspection: Inspection) -> None:
    first, *others = inspection.splits
    if first.class_names is None:
        return
    counts, names = first.class_counts(), first.class_names
    unused = [name for index, name in enumerate(names) if not counts[index]]
    _note_classes(first.findings, "classes without annotations", unused)
    for other in others:
        if other.class_names is None:
            continue
        label = f"{first.source.name} and {other.source.name}"
        if other.class_names != names:
            what = f"{_listed(names)} and {_listed(other.class_names)}"
            inspection.findings.add(
                "splits with different classes",
                Example(label, what),
                remedy="give all splits the same categories, with the same ids",
            )
            continue
        found = other.class_counts()
        if not found:  # a set to run on, not to evaluate with
            continue
        lacking = [n for i, n in enumerate(names) if counts[i] and not found[i]]
        unknown = [n for i, n in enumerate(names) if found[i] and not counts[i]]
        kind = f"classes of {first.source.name} that {other.source.name} has no example of"
        _note_classes(inspection.findings, kind, lacking)
        kind = f"classes of {other.source.name} that {first.source.name} has no example of"
        _note_classes(inspection.findings, kind, unknown)


def _note_classes(findings: Findings, kind: str, names: Sequence[str]) -> None:
    if names:
        findings.add(kind, Example("", _listed(names)), severity="warning", count=len(names))


def _listed(names: Sequence[str], most: int = 30) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _find_copies(inspection: Inspection, pool: Executor) -> None:
    """Notes images whose files are equal, within a split and between two."""
    alike: dict[str, set[str]] = {}
    for split in inspection.splits:
        for name, facts in split.facts.items():
            alike.setdefault(facts.fingerprint, set()).add(name)
    suspects = sorted(name for names in alike.values() if len(names) > 1 for name in names)
    digests: list[Future[str | None]] = [pool.submit(odd.file_digest, name) for name in suspects]
    by_name = {name: digest.result() for name, digest in zip(suspects, digests, strict=True)}
    first_of: dict[str, tuple[SplitInspection, str]] = {}
    for split in inspection.splits:
        for record in split.dicts:
            name = str(record["file_name"])
            digest = by_name.get(name) or (name if name in split.facts else None)
            if digest is None:
                continue
            other, first = first_of.setdefault(digest, (split, name))
            if other is split:
                if first == name:
                    continue
                kind, remedy = "images that are copies of another one", "keep one of them"
                findings, what = split.findings, f"is the same as {first!r}"
            else:
                kind = f"images that are both in {other.source.name} and in {split.source.name}"
                remedy = "remove them from one of the splits, or results will be too good"
                findings = inspection.findings
                what = f"is the same as {first!r} in {other.source.name}"
            example = Example(name_image(record), what, (name, first))
            findings.add(kind, example, severity="warning", remedy=remedy)
