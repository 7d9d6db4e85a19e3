"""The one inspection of data: annotations and images of all splits.

Training and evaluation make it before they start (:func:`check_datasets`), and
``sap-detr check`` prints all of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from ..text import listing
from .boxes import inspect_boxes
from .coco_schema import CocoAnnotations, CocoFile, read_split
from .errors import DatasetError
from .files import find_copies, inspect_files, note_unlisted
from .findings import Findings, Kind, raise_errors
from .images import ImageFacts
from .kept_readings import KeptInspection
from .pixels import FULL_RANGE, PixelRange, depth
from .record_arrays import without_annotations
from .records import SplitFiles
from .registration import RegisteredAnnotations
from .registry import class_names, inspect_dicts, load_dataset, require_dataset
from .standard_dict import StandardDict, name_image, objects

_NUM_THREADS = 16
_MAX_CLASSES = 30


@dataclass(frozen=True)
class Source:
    """A split to inspect: files of a known format, or a name in Detectron2's catalog.

    Args:
        name: what to call it; without files, the registered name.
        files: where it lies.
        training: whether it is trained on; otherwise it is evaluated.
        read: reads the annotations of the files; None to read them with the classes of the first
            split.
    """

    name: str
    files: SplitFiles | None = None
    training: bool = True
    read: Callable[[], CocoAnnotations] | None = None

    @property
    def path(self) -> Path | None:
        """Return the file or the folder with the annotations."""
        return None if self.files is None else self.files.path

    @property
    def image_root(self) -> Path | None:
        """Return the folder that file names are relative to."""
        return None if self.files is None else self.files.image_root

    @classmethod
    def registered(cls, name: str, training: bool = True) -> Source:
        """Return a registered data set; of those that we registered, the files themselves.

        Raises:
            DatasetError: if the name is unknown.
            FileNotFoundError: if the annotation file is missing.
        """
        require_dataset(name)
        loader = DatasetCatalog[name]
        if not isinstance(loader, RegisteredAnnotations):
            return cls(name, training=training)
        return cls(name, loader.files, training, partial(loader.look, training))


@dataclass
class Split:
    """What a split holds, as far as it can be read.

    Attributes:
        source: what was inspected.
        findings: what is wrong.
        class_names: in the order of the class indices; None if they are not known.
        dicts: standard dicts; boxes are clipped to their images.
        facts: what the image files' headers say, by file name.
        complete: whether all annotations could be used.
    """

    source: Source
    findings: Findings
    class_names: list[str] | None = None
    dicts: Sequence[StandardDict] = ()
    facts: dict[str, ImageFacts] = field(default_factory=dict)
    complete: bool = False

    def file_names(self) -> list[str]:
        """Return those of the images."""
        return [str(record["file_name"]) for record in without_annotations(self.dicts)]

    def class_counts(self) -> Counter[int]:
        """Return the number of annotations other than crowds, by class index."""
        return Counter(a["category_id"] for record in self.dicts for a in objects(record))


@dataclass
class Inspection:
    """What was found in a data set.

    Attributes:
        splits: in the order that was given.
        between: what is wrong between the splits.
    """

    splits: list[Split]
    between: Findings

    def all_findings(self) -> list[Findings]:
        """Return those of the splits, then those between them."""
        return [*(split.findings for split in self.splits), self.between]

    def warnings(self) -> list[str]:
        """Return one line for every kind of warning."""
        return [text for findings in self.all_findings() for text in findings.messages("warning")]


def check_datasets(
    trained: Sequence[str] = (),
    evaluated: Sequence[str] = (),
    *,
    class_names: Sequence[str] | None = None,
    num_queries: int | None = None,
    pixel_range: PixelRange = FULL_RANGE,
    require_validation: bool = False,
) -> Inspection:
    """Inspect registered data sets, builtin ones as well, before a run; log warnings.

    To be called once, by the main process.

    Args:
        trained: names in Detectron2's catalog of what is trained on.
        evaluated: names of what is evaluated.
        class_names: of the model, in the order of its outputs; None for those of the first set.
        num_queries: of the model; None if it is not known.
        pixel_range: for images of more than 8 bits.
        require_validation: warn if nothing is evaluated.

    Raises:
        FileNotFoundError: if an annotation file is missing; for builtin data sets it names
            DETECTRON2_DATASETS.
        DatasetError: for an unknown name, or if there is an error among the findings.
    """
    sources = [Source.registered(name, training=True) for name in trained]
    sources += [Source.registered(name, training=False) for name in evaluated]
    settings: dict[str, Any] = {
        "class_names": class_names,
        "num_queries": num_queries,
        "pixel_range": pixel_range,
        "require_validation": require_validation,
    }
    inspection = _inspect_once(sources, settings)
    for findings in inspection.all_findings():
        findings.log()
    raise_errors(inspection.all_findings())
    return inspection


def _inspect_once(sources: Sequence[Source], settings: Mapping[str, Any]) -> Inspection:
    """Inspect data sets, or return what was found before, if nothing has changed since."""
    splits: list[Split] = []
    known: list[tuple[CocoFile, list[str]]] = []
    names: list[Any] = [{**settings, "pixel_range": str(settings["pixel_range"])}]
    for source in sources:
        if not isinstance(source.files, CocoFile) or source.read is None:
            break
        try:
            read = source.read()
        except (DatasetError, FileNotFoundError):
            break
        split = Split(source, read.findings, read.class_names, read.records, complete=True)
        splits.append(split)
        known.append((source.files, split.file_names()))
        names.append([source.name, source.training, list(read.categories.items())])
    # Of other formats each file would have to be looked at.
    on_disk = KeptInspection(known, names) if len(splits) == len(sources) else None
    found = None if on_disk is None else on_disk.load()
    if found is not None:
        for split, findings in zip(splits, found[:-1], strict=True):
            split.findings = findings
        return Inspection(splits, found[-1])
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        inspection = inspect(sources, pool, **settings)
    if on_disk is not None:
        on_disk.save(inspection.all_findings())
    return inspection


def inspect(
    sources: Sequence[Source],
    pool: Executor,
    *,
    class_names: Sequence[str] | None = None,
    num_queries: int | None = None,
    decode: bool = False,
    pixel_range: PixelRange = FULL_RANGE,
    require_validation: bool = False,
    progress: Callable[[Split], Callable[[int], object]] | None = None,
) -> Inspection:
    """Check annotations and image files.

    Images that are evaluated are decoded, because a bad one stops an evaluation when it comes up.
    Of images that are trained on, where a bad one is replaced, headers and ends of files are read.

    Args:
        sources: the splits.
        pool: reads the images.
        class_names: of the model; None for those of the first split.
        num_queries: of the model; None if it is not known.
        decode: decode the images that are trained on as well.
        pixel_range: for images of more than 8 bits.
        require_validation: warn if no split is evaluated.
        progress: called with each split before its images are read; what it returns is called with
            the number of images that are done.

    Raises:
        DatasetError: if a process of the pool dies.
    """
    splits: list[Split] = []
    categories: Mapping[int, str] | None = None
    for source in sources:
        split = Split(source, Findings(str(source.path or f"data set {source.name!r}")))
        splits.append(split)
        try:
            found = _read_annotations(split, categories)
            categories = categories or found
            split.complete = not split.findings.of("error")
        except (DatasetError, FileNotFoundError) as error:
            split.findings.add(Kind.UNUSABLE_FILE, what=str(error))
            continue
        split.facts = inspect_files(
            without_annotations(split.dicts),
            split.findings,
            pool,
            image_root=source.image_root,
            decode=decode or not source.training,
            pixel_range=pixel_range,
            progress=None if progress is None else progress(split),
        )
        inspect_boxes(split.dicts, split.findings, num_queries)
    result = Inspection(splits, Findings("between the splits"))
    if require_validation and all(source.training for source in sources):
        result.between.add(Kind.NO_VALIDATION)
    _note_unlisted(result)
    _compare_classes(result, class_names)
    _compare_images(result)
    _compare_depths(result)
    return result


def _read_annotations(
    split: Split, categories: Mapping[int, str] | None
) -> Mapping[int, str] | None:
    """Read a split; returns its categories, if these are known.

    Args:
        split: gets what is read.
        categories: of the first split.
    """
    source = split.source
    if source.files is None:
        dicts, split.class_names = load_dataset(source.name), class_names(source.name)
        split.dicts = inspect_dicts(
            dicts, split.class_names, split.findings, training=source.training
        )
        return None
    if source.read is None:
        read = read_split(source.files, training=source.training, categories=categories)
    else:
        read = source.read()
    split.dicts, split.findings = read.records, read.findings.copy()
    if Kind.UNUSABLE_CATEGORY in read.findings:
        return None
    split.class_names = read.class_names
    return read.categories


def _note_unlisted(inspection: Inspection) -> None:
    """Note images of the splits' folders that no split names."""
    if any(split.findings.of("error") for split in inspection.splits):
        # It would follow from what is missing.
        return
    listed = [name for split in inspection.splits for name in split.file_names()]
    # The last split of a folder that several have.
    for root, split in {split.source.image_root: split for split in inspection.splits}.items():
        if root is not None:
            note_unlisted(listed, root, split.findings)


def _compare_classes(inspection: Inspection, model_names: Sequence[str] | None) -> None:
    splits = [split for split in inspection.splits if split.class_names is not None]
    if not splits:
        return
    first, *others = splits
    names, counts = first.class_names or [], first.class_counts()
    if model_names is not None and list(model_names) != names:
        _add_difference(inspection, f"the model and {first.source.name}", model_names, names)
    if first.source.training and first.complete and counts:
        unused = [name for index, name in enumerate(names) if not counts[index]]
        _add_classes(first.findings, Kind.UNUSED_CLASS, "", unused)
    for other in others:
        pair = f"{first.source.name} and {other.source.name}"
        if other.class_names != names:
            _add_difference(inspection, pair, names, other.class_names or ())
            continue
        found = other.class_counts()
        complete = first.complete and other.complete
        if not (found and complete) or other.source.training or not first.source.training:
            continue
        lacking = [n for i, n in enumerate(names) if counts[i] and not found[i]]
        unknown = [n for i, n in enumerate(names) if found[i] and not counts[i]]
        _add_classes(inspection.between, Kind.NOT_EVALUATED, pair, lacking)
        _add_classes(inspection.between, Kind.NOT_TRAINED, pair, unknown)


def _add_difference(
    inspection: Inspection, pair: str, first: Sequence[str], second: Sequence[str]
) -> None:
    what = " and ".join(listing(names, _MAX_CLASSES) for names in (first, second))
    inspection.between.add(Kind.DIFFERENT_CLASSES, pair, what)


def _add_classes(findings: Findings, kind: Kind, where: str, names: Sequence[str]) -> None:
    if names:
        findings.add(kind, where, listing(names, _MAX_CLASSES), count=len(names))


def _compare_images(inspection: Inspection) -> None:
    """Note images whose files are equal, within a split and between two."""
    contents = find_copies([item for split in inspection.splits for item in split.facts.items()])
    first_of: dict[str, tuple[Split, str]] = {}
    for split in inspection.splits:
        for record in without_annotations(split.dicts):
            name = str(record["file_name"])
            if name not in split.facts:
                continue
            path = os.path.normpath(name)
            other, first = first_of.setdefault(contents.get(path, path), (split, path))
            if other is split and first == path:
                continue
            same_role = other.source.training == split.source.training
            findings = split.findings if same_role else inspection.between
            kind = Kind.COPY if same_role else Kind.TRAINED_AND_EVALUATED
            what = f"is the same as {first!r}"
            what += f" in {other.source.name}" if other is not split else ""
            findings.add(kind, name_image(record), what, (name, first))


def _compare_depths(inspection: Inspection) -> None:
    """Note splits whose images are of another depth than those of the first."""
    most = [
        (split, Counter(depth(fact.mode) for fact in split.facts.values()).most_common(1)[0][0])
        for split in inspection.splits
        if split.facts
    ]
    for split, found in most[1:]:
        first, expected = most[0]
        if found != expected:
            pair = f"{first.source.name} and {split.source.name}"
            what = f"{expected} and {found}"
            inspection.between.add(Kind.MIXED_DEPTHS, pair, what, count=len(split.facts))
