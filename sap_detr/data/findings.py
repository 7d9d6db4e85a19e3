"""What can be wrong with a data set, how severe it is and what to do: one table for everything.

Training, evaluation and ``sap-detr check`` share it, so they agree about what stops them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal

from detectron2.utils.logger import log_first_n

from .errors import DatasetError

# Training and evaluation refuse to start; they start, but something was repaired or looks wrong;
# good to know.
Severity = Literal["error", "warning", "note"]

MAX_LISTED = 10  # examples in an error message
MAX_EXAMPLES = 1000  # kept of each kind, for the written report

_REPLACE = "replace these images, or leave them and their annotations out of a copy of the file"
_COPY = (
    "check the folder of the images in the config, that all images were copied, and how file_name "
    "is written: relative to that folder, with / between folders"
)
_BOX = "correct them in the annotations; in COCO format boxes are [x, y, width, height] in pixels"
_LABEL = "a line is: class x_center y_center width height, all but the class from 0 to 1"
_IMAGE = "every image needs an own integer id, a file_name, and its height and width in pixels"
_TEXT_ID = (
    "write ids as integers, without quotes: id of images and categories, and what refers to them"
)
_ANNOTATION = "image_id and category_id must be ids of the file, as integers; iscrowd is 0 or 1"


class Kind(Enum):
    """A way in which data can be wrong: severity, name in the plural, and what to do about it."""

    # Annotations that can't be used.
    UNUSABLE_FILE = "error", "annotation files that can't be used"
    UNUSABLE_CATEGORY = "error", "unusable categories", "each needs an own integer id and a name"
    UNUSABLE_IMAGE = "error", "unusable images", _IMAGE
    TEXT_ID = "error", "ids that are text", _TEXT_ID
    REPEATED_IMAGE_ID = "error", "images with the id of another one", _IMAGE
    NO_IMAGE_SIZE = "error", "images without a usable size", _IMAGE
    NOT_AN_OBJECT = "error", "annotations that are no objects", _ANNOTATION
    UNKNOWN_IMAGE = "error", "annotations of unknown images", _ANNOTATION
    UNKNOWN_CATEGORY = "error", "annotations of unknown categories", _ANNOTATION
    UNUSABLE_CROWD = "error", "annotations with an unusable iscrowd", _ANNOTATION
    BOX_MODE = "error", "boxes of an unknown mode", "use BoxMode.XYWH_ABS or BoxMode.XYXY_ABS"
    BOX_NOT_NUMBERS = "error", "boxes that are not four numbers", _BOX
    BOX_NOT_FINITE = "error", "boxes that are not finite", _BOX
    BOX_NEGATIVE = "error", "boxes with a negative width or height", _BOX
    NOTHING_TO_TRAIN_ON = "error", "no annotations", "check that this is the file you meant"
    DIFFERENT_CLASSES = (
        "error",
        "splits with different classes",
        "give them the same names; ids may differ where register_coco is told classes_of",
    )
    NOT_A_TRAINED_CLASS = (
        "error",
        "annotations of classes that the training data does not have",
        "add their categories to the training data, or leave them out of a copy of the file",
    )
    # Files of other formats.
    BAD_XML = (
        "error",
        "XML annotations that can't be read",
        "an object has a name, and a bndbox with xmin, ymin, xmax, ymax",
    )
    FROM_ZERO = (
        "warning",
        "corners at 0, though VOC's format counts pixels from 1 (boxes may be off by one pixel)",
        "write corners that count from 1, or export to COCO format",
    )
    DIFFICULT = "note", "objects marked as difficult (trained and evaluated as all others)"
    BAD_LABEL = "error", "lines of label files that can't be read", _LABEL
    NOT_FRACTIONS = "error", "labels that are not fractions of their image", _LABEL
    BEYOND_CLASSES = (
        "error",
        "labels of classes beyond the list of names",
        "complete the names in data.yaml or classes.txt, or correct the labels",
    )
    NO_LABELS = (
        "warning",
        "images without a label file (taken as images without objects)",
        "label them, or take them out; an empty file says that nothing is to be found",
    )
    EMPTY_LABELS = "note", "empty label files (images without objects)"
    POLYGONS = "note", "labels that are polygons (the boxes around them are taken)"
    NO_IMAGE = "warning", "label files without an image (not used)", "add the images, if meant"
    OTHER_IDS = "note", "categories with other ids than in the training data (matched by name)"
    # Boxes of the whole set that are probably of another form.
    FRACTIONS = (
        "warning",
        "boxes that seem to be fractions of the image",
        "multiply them by width and height, in a copy of the file: boxes are in pixels",
    )
    CORNERS = (
        "warning",
        "boxes that seem to be two corners",
        "write boxes as [x, y, width, height], in a copy of the file, not as [x0, y0, x1, y1]",
    )
    # Annotations that are repaired.
    BOX_CLIPPED = "warning", "boxes clipped to their image"
    BOX_OUTSIDE = "warning", "boxes entirely outside their image (dropped)"
    BOX_EMPTY = "warning", "boxes without area (dropped)"
    SAME_NAME = "warning", "categories with the name of another one (kept as classes of their own)"
    IDS = "warning", "annotation ids missing, 0 or not unique (renumbered for evaluation)"
    NO_CROWD = "note", "annotations without iscrowd (taken as 0)"
    NO_AREA = "note", "annotations without a usable area (taken as width times height)"
    WRONG_AREA = (
        "warning",
        "areas that the box contradicts (taken as width times height)",
        "correct area in the annotations: it is in pixels; AP of small and large objects needs it",
    )
    ENCODING = "note", "files not in plain UTF-8 (converted for evaluation)"
    # Annotations that are probably not meant.
    TINY_BOX = "warning", "boxes with a side below 2 pixels", "look whether they are meant"
    SAME_BOX = "warning", "boxes annotated twice with the same class", "keep one of them"
    SAME_BOX_OTHER_CLASS = "note", "boxes annotated twice with different classes"
    TOO_MANY_OBJECTS = (
        "warning",
        "images with more objects than the model has queries",
        "raise model.decoder.num_queries (or model.decoder.grid_size, of which it is the product)",
    )
    NO_VALIDATION = (
        "warning",
        "data sets with nothing to evaluate: training runs without AP and best checkpoint",
        "name a split, such as dataset.val=test, or take a part of it with dataset.val_share=0.2",
    )
    NOTHING_TO_EVALUATE = "warning", "no annotations to evaluate with", "AP needs objects"
    UNUSED_CLASS = "warning", "classes without annotations"
    NOT_EVALUATED = "warning", "classes that are trained but have no example to evaluate with"
    NOT_TRAINED = "warning", "classes that are evaluated but have no example to train on"
    # Image files.
    MISSING_FOLDER = "error", "missing image folders", _COPY
    MISSING_FILE = "error", "missing image files", _COPY
    EMPTY_FILE = "error", "empty image files", _REPLACE
    NOT_AN_IMAGE = "error", "files that are not images", _REPLACE
    DAMAGED_FILE = "error", "damaged image files", _REPLACE
    UNUSABLE_PIXELS = (
        "error",
        "images whose pixels can't be converted to 8 bits",
        "set dataloader.pixel_range to bits=N or percentile=P, or convert these images",
    )
    DARK_PIXELS = (
        "warning",
        "images of 16 bits that hold fewer, and become dark",
        "set dataloader.pixel_range to bits=N",
    )
    MIXED_DEPTHS = (
        "warning",
        "images of another depth than most",
        "look whether all are as bright; convert them to one depth if not",
    )
    TOO_LARGE = (
        "error",
        "images above the size limit",
        "scale these images down, or raise the limit with SAP_DETR_MAX_IMAGE_PIXELS",
    )
    WRONG_SIZE = (
        "error",
        "images of another size than the annotations say",
        "correct height and width, or use the images that were annotated",
    )
    ANNOTATED_UNTURNED = (
        "error",
        "images annotated as they are stored, though EXIF turns them",
        "store these images upright without EXIF orientation, or annotate them turned",
    )
    TURNED = "note", "images that EXIF data turns"
    LISTED_TWICE = (
        "warning",
        "files that are listed more than once",
        "put all annotations of a file under one image id",
    )
    NOT_LISTED = "note", "images in the folder that the annotations don't list"
    OUTSIDE_FOLDER = "warning", "file names that lead out of the folder of the images"
    COPY = "warning", "images that are copies of another one", "keep one of them"
    TRAINED_AND_EVALUATED = (
        "warning",
        "images that are both trained on and evaluated",
        "take them out of one of the splits, or results will be too good",
    )

    def __init__(self, severity: Severity, title: str, remedy: str = "") -> None:
        self.severity = severity
        self.title = title
        self.remedy = remedy


@dataclass(frozen=True)
class Example:
    """One thing that is wrong.

    Args:
        where: the item.
        what: what is wrong with it.
        file_names: the images that show it.
        boxes: XYWH in pixels of the first of them, if it is about boxes.
    """

    where: str
    what: str
    file_names: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.what) if part)


@dataclass
class Finding:
    """All that is wrong in one way: how often, and the first examples."""

    kind: Kind
    count: int = 0
    examples: list[Example] = field(default_factory=list)


class Findings:
    """What is wrong with a data set.

    Args:
        source: what to call it in messages.
        found: at most one of each kind.
    """

    def __init__(self, source: str, found: Iterable[Finding] = ()) -> None:
        self.source = source
        self._by_kind = {finding.kind: finding for finding in found}

    def add(
        self,
        kind: Kind,
        where: str = "",
        what: str = "",
        file_names: tuple[str, ...] = (),
        boxes: tuple[tuple[float, ...], ...] = (),
        count: int = 1,
    ) -> None:
        """Note something: ``count`` cases, and one as an example, see :class:`Example`."""
        finding = self._by_kind.setdefault(kind, Finding(kind))
        finding.count += count
        if (where or what) and len(finding.examples) < MAX_EXAMPLES:
            finding.examples.append(Example(where, what, file_names, boxes))

    def __contains__(self, kind: Kind) -> bool:
        return kind in self._by_kind

    def copy(self) -> Findings:
        """Return the same findings, to which others can be added."""
        return Findings(self.source, [replace(f, examples=list(f.examples)) for f in self.of()])

    def of(self, *severities: Severity) -> list[Finding]:
        """Return what has these severities, or everything, in the order in which it was found."""
        found = self._by_kind.values()
        return [f for f in found if not severities or f.kind.severity in severities]

    def counts(self, *severities: Severity) -> Counter[str]:
        """Return how often each kind of these severities was found, by its title."""
        return Counter({f.kind.title: f.count for f in self.of(*severities)})

    def messages(self, severity: Severity) -> list[str]:
        """Return one line for every kind of this severity: how often, an example, what to do."""
        lines = []
        for finding in self.of(severity):
            first = finding.examples[0] if finding.examples else None
            # Without a place it is about all of them.
            link = ", e.g. " if first is not None and first.where else ": "
            example = "" if first is None else f"{link}{first}"
            remedy = f". To do: {finding.kind.remedy}" if finding.kind.remedy else ""
            lines.append(f"{self.source}: {finding.count} {finding.kind.title}{example}{remedy}")
        return lines

    def log(self) -> None:
        """Log warnings and notes, each of them once in a process."""
        for message in self.messages("warning"):
            log_first_n(logging.WARNING, message, key="message")
        for message in self.messages("note"):
            log_first_n(logging.INFO, message, key="message")

    def raise_errors(self) -> None:
        """Raise a DatasetError with the first examples if there is an error among the findings."""
        raise_errors([self])


def raise_errors(all_findings: Iterable[Findings]) -> None:
    """Raise one DatasetError with the first examples of every data set that has errors."""
    texts = [_error_text(findings) for findings in all_findings if findings.of("error")]
    if texts:
        raise DatasetError("\n".join(texts))


def _error_text(findings: Findings) -> str:
    errors = findings.of("error")
    total = sum(finding.count for finding in errors)
    examples = [example for finding in errors for example in finding.examples][:MAX_LISTED]
    lines = [f"{findings.source}: {total} problem{'s' if total > 1 else ''} found"]
    lines += [f"  - {example}" for example in examples]
    lines += [f"  ... and {total - len(examples)} more"] * (total > len(examples))
    remedies = dict.fromkeys(finding.kind.remedy for finding in errors)
    return "\n".join([*lines, *(f"To do: {remedy}" for remedy in remedies if remedy)])
