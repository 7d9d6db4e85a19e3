"""What a data set says, in COCO's form, whatever format it was read from.

Every format has a reader, a :class:`SplitFiles`; checks, registration, loading and evaluation go on
from its :class:`Records` in one way, see :func:`~sap_detr.data.coco_schema.read_split`. Readers of
other libraries, such as supervision's, keep neither the line of a box nor what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .findings import Findings


class Place(NamedTuple):
    """Where something was read: a file, and the line, from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Records:
    """What was read, not checked yet.

    Args:
        content: as the json of a file in COCO's detection format.
        findings: what is wrong with the files, as far as COCO's form can't show it.
        places: of each of its annotations; empty where these go by their ids.
        is_file: whether COCO evaluation can read the content from the split's own file.
    """

    content: Any
    findings: Findings
    places: Sequence[Place] = ()
    is_file: bool = False


class RecordsBuilder:
    """Puts together :class:`Records` of files that are not in COCO's form.

    Args:
        path: what is read, for messages.
        categories: class names by id.

    Attributes:
        findings: of the records.
    """

    def __init__(self, path: Path, categories: Mapping[int, str]) -> None:
        self.findings = Findings(str(path))
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._places: list[Place] = []
        self._content = {
            "info": {"description": f"read from {path}"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": i, "name": name} for i, name in categories.items()],
        }

    def add_image(self, file_name: str, size: tuple[int, int]) -> None:
        """Add an image.

        Args:
            file_name: relative to the folder of the images.
            size: width and height in pixels.
        """
        width, height = size
        entry = {"id": len(self._images) + 1, "file_name": file_name}
        self._images.append({**entry, "width": width, "height": height})

    def add_box(self, category_id: int, box: list[float], place: Place) -> None:
        """Add an object of the last image, with its box as XYWH in pixels."""
        self._places.append(place)
        self._annotations.append(
            {
                "id": len(self._places),
                "image_id": len(self._images),
                "category_id": category_id,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )

    def records(self) -> Records:
        """Return everything."""
        return Records(self._content, self.findings, self._places)


class SplitFiles(Protocol):
    """A split on disk. Those that are equal have the same files."""

    @property
    def format(self) -> str:
        """Return what the format is called, for messages, such as ``COCO format``."""

    @property
    def path(self) -> Path:
        """Return the file or the folder with the annotations, for messages."""

    @property
    def image_root(self) -> Path:
        """Return the folder that file names are relative to."""

    def records(self) -> Records:
        """Read everything but the pixels.

        Raises:
            FileNotFoundError, DatasetError: if nothing can be made of it.
        """
