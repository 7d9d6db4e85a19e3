"""YOLO's format: a text file of labels for each image, and a list of class names.

A label is a line ``class x_center y_center width height``, with the class as an index from 0 and
the rest as fractions of the image as it is shown, turned by its EXIF data. Of a polygon,
``class x y x y x y ...``, the box around it is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ..text import listing, shorten
from .boxes import Fault
from .errors import DatasetError
from .findings import Findings, Kind
from .images import BadImageError, image_suffixes, inspect_image
from .records import Place, Records, RecordsBuilder

LOOKED_FOR = (
    "data.yaml with names, and a folder or a list of images for {split}",
    "images/{split}/ with labels/{split}/, and classes.txt or data.yaml",
    "{split}/images/ with {split}/labels/, and classes.txt or data.yaml",
)
LOOKED_FOR_WHOLE = ("images/ with labels/, and classes.txt or data.yaml",)

_YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "data/obj.names")
_NUM_THREADS = 16
# Fractions may be over 1 by rounding; their boxes are clipped.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class YoloSplit:
    """A split in YOLO's format.

    Args:
        path: what names it: ``data.yaml`` or the folder of its labels.
        image_root: folder that file names in results are relative to.
        sources: folders of images, and lists (``.txt``) of them.
        names: of the classes.
    """

    path: Path
    image_root: Path
    sources: tuple[Path, ...]
    names: tuple[str, ...]
    format: ClassVar[str] = "YOLO format"

    def records(self) -> Records:
        """Read all labels, and the sizes of the images.

        Raises:
            FileNotFoundError: if a list of images or a folder is missing.
            DatasetError: if there are no images.
        """
        files = sorted(set(self._image_files()))
        if not files:
            raise DatasetError(f"{self.path}: there are no images in {listing(self.sources)}")
        builder = RecordsBuilder(self.path, dict(enumerate(self.names)))
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            sizes = pool.map(_size_of, files)
            labels = pool.map(_read_lines, map(self.label_file, files))
            for file, size, lines in zip(files, sizes, labels, strict=True):
                if isinstance(size, BadImageError):
                    builder.findings.add(size.kind, repr(str(file)), size.reason, (str(file),))
                    continue
                builder.add_image(self._below(file).as_posix(), size)
                for place, category, box in self._boxes(file, lines, builder.findings):
                    builder.add_box(category, to_pixels(box, *size), place)
        self._note_labels_without_image(files, builder.findings)
        return builder.records()

    def label_file(self, image: Path) -> Path:
        """Return the label file of an image: ``labels`` in place of the last ``images``."""
        parts = list(self._below(image).parts)
        if "images" in parts[:-1]:
            last = len(parts) - 2 - parts[-2::-1].index("images")
            parts[last] = "labels"
        return self.image_root.joinpath(*parts).with_suffix(".txt")

    def _below(self, file: Path) -> Path:
        """Return a path relative to the folder, or as it is if it lies elsewhere."""
        return file.relative_to(self.image_root) if file.is_relative_to(self.image_root) else file

    def _image_files(self) -> Iterator[Path]:
        for source in self.sources:
            if source.is_dir():
                for file in source.rglob("*"):
                    if file.suffix.lower() in image_suffixes():
                        yield file
                continue
            for line in filter(None, map(str.strip, source.read_text("utf-8-sig").splitlines())):
                beside = source.parent / line
                yield beside if beside.is_file() else self.image_root / line

    def _boxes(
        self, image: Path, lines: list[str] | None, findings: Findings
    ) -> Iterator[tuple[Place, int, list[float]]]:
        """Return where each label stands, its class, and its box as fractions."""
        label = str(self.label_file(image))
        if lines is None:
            findings.add(Kind.NO_LABELS, repr(label), f"of {image.name!r}", (str(image),))
            return
        if not any(map(str.strip, lines)):
            findings.add(Kind.EMPTY_LABELS, str(Place(label, 1)), "", (str(image),))
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = Place(label, number)
            try:
                category, box, polygon = parse_label(line, self.names)
            except Fault as fault:
                findings.add(fault.kind, str(place), fault.what, (str(image),))
                continue
            if polygon:
                findings.add(Kind.POLYGONS, str(place), "", (str(image),))
            yield place, category, box

    def _note_labels_without_image(self, files: list[Path], findings: Findings) -> None:
        labels = {self.label_file(file) for file in files}
        folders = {self.label_file(source / "x").parent for source in self.sources}
        for folder in sorted(folders - set(self.sources)):
            for label in sorted(folder.rglob("*.txt")):
                if label not in labels and label.name not in {Path(n).name for n in _NAME_FILES}:
                    findings.add(Kind.NO_IMAGE, repr(str(label)))


def find_split(root: Path, split: str) -> YoloSplit | None:
    """Return a split of a folder, None if it has none of this name in YOLO's format.

    Raises:
        FileNotFoundError: if ``data.yaml`` names what is not there.
        DatasetError: if ``data.yaml`` can't be used, or class names are missing.
    """
    described = _read_yaml(root)
    if described is not None:
        file, content = described
        sources = content.get(split)
        if sources:
            base = _base_folder(file, content)
            given = sources if isinstance(sources, list) else [sources]
            found = tuple(_locate(str(source), base, file) for source in given)
            return YoloSplit(file, base, found, _class_names(root))
    for images, labels in (("images/{}", "labels/{}"), ("{}/images", "{}/labels")):
        source, label_folder = root / images.format(split), root / labels.format(split)
        if source.is_dir() and label_folder.is_dir():
            return YoloSplit(label_folder, root, (source,), _class_names(root))
    return None


def find_whole(root: Path) -> YoloSplit | None:
    """Return all images of a folder without splits, None if that is not how it is.

    Raises:
        DatasetError: if class names are missing.
    """
    images, labels = root / "images", root / "labels"
    if not labels.is_dir() or not images.is_dir():
        return None
    if not any(file.suffix.lower() in image_suffixes() for file in images.iterdir()):
        return None
    return YoloSplit(labels, root, (images,), _class_names(root))


def parse_label(line: str, names: tuple[str, ...]) -> tuple[int, list[float], bool]:
    """Read a label.

    Args:
        line: class index, then a box or a polygon as fractions of the image.
        names: of the classes.

    Returns:
        The class, the box as x_center, y_center, width, height, and whether it was a polygon.

    Raises:
        Fault: if it is none.
    """
    try:
        index, *numbers = (float(text) for text in line.split())
    except ValueError:
        raise Fault(Kind.BAD_LABEL, f"{shorten(line)} is not numbers with spaces") from None
    is_box, is_polygon = len(numbers) == 4, len(numbers) >= 6 and len(numbers) % 2 == 0
    if not (is_box or is_polygon):
        found = f"{len(numbers) + 1} numbers, a box has 5 and a polygon 7, 9, 11, ..."
        raise Fault(Kind.BAD_LABEL, f"{shorten(line)}: {found}")
    if not index.is_integer() or not 0 <= index < len(names):
        what = f"class {line.split()[0]}, but there are {len(names)}, from 0: {listing(names)}"
        raise Fault(Kind.BEYOND_CLASSES, what)
    # A negative size is a fault that boxes of all formats can have.
    if not all(-_TOLERANCE <= v <= 1 + _TOLERANCE for v in (*numbers[:2], *map(abs, numbers[2:]))):
        raise Fault(Kind.NOT_FRACTIONS, shorten(line.strip()))
    if is_polygon:
        xs, ys = numbers[::2], numbers[1::2]
        numbers = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2]
        numbers += [max(xs) - min(xs), max(ys) - min(ys)]
    return int(index), numbers, is_polygon


def to_pixels(box: list[float], width: int, height: int) -> list[float]:
    """Turn x_center, y_center, width, height in fractions of an image into XYWH in pixels."""
    x, y, w, h = box
    return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]


def _size_of(file: Path) -> tuple[int, int] | BadImageError:
    """Return width and height of an image as it is shown, or what is wrong with it."""
    try:
        return inspect_image(file).upright_size
    except BadImageError as error:
        return error


def _read_lines(file: Path) -> list[str] | None:
    """Return the lines of a file, None if there is none."""
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except FileNotFoundError:
        return None


def _read_yaml(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the file that describes a folder, and what it says; None if there is none."""
    file = next((root / name for name in _YAML_FILES if (root / name).is_file()), None)
    if file is None:
        return None
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{file}: can't be read as yaml: {error}") from error
    if not isinstance(content, dict) or "names" not in content:
        return None
    if "kpt_shape" in content:
        raise DatasetError(f"{file}: kpt_shape says that labels are poses, which are not boxes")
    return file, content


def _class_names(root: Path) -> tuple[str, ...]:
    described = _read_yaml(root)
    if described is not None:
        file, content = described
        names = content["names"]
        if isinstance(names, dict) and sorted(names) == list(range(len(names))):
            names = [names[index] for index in range(len(names))]
        if not isinstance(names, list) or not names:
            what = f"{shorten(names)}: a list, or a map from 0, 1, 2, ... to names, is expected"
            raise DatasetError(f"{file}: names is {what}")
        if content.get("nc", len(names)) != len(names):
            raise DatasetError(f"{file}: nc is {content['nc']}, but names has {len(names)}")
        return tuple(str(name) for name in names)
    for name in _NAME_FILES:
        if (root / name).is_file():
            lines = (root / name).read_text(encoding="utf-8-sig").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    raise DatasetError(
        f"{root}: images and labels in YOLO's format, but no class names. Looked for names in "
        f"{listing(_YAML_FILES)}, and for {listing(_NAME_FILES)} with one name in each line"
    )


def _base_folder(file: Path, content: dict[str, Any]) -> Path:
    """Return the folder that paths are relative to; after a move it is that of the file."""
    base = file.parent / str(content.get("path") or "")
    return base if base.is_dir() else file.parent


def _locate(source: str, base: Path, file: Path) -> Path:
    """Return a folder or list of images that ``data.yaml`` names.

    Exports for training elsewhere say ``../train/images`` of what lies beside the file.
    """
    tried = dict.fromkeys(
        folder / name
        for name in (source, source.removeprefix("../"))
        for folder in (base, file.parent)
    )
    for path in tried:
        if path.is_dir() or path.is_file():
            return Path(*path.parts)
    raise FileNotFoundError(
        f"{file}: names {source!r}, which is not there. Looked for {listing(tried, 4, ' and ')}"
    )
