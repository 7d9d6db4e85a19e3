"""Pascal VOC's format: an XML file for each image.

Corners count pixels from 1, and both belong to the box, as in VOC's own tools and in Detectron2's
reader: ``x = xmin - 1`` and ``width = xmax - xmin + 1``. Objects marked as difficult are as all
others. Classes are the names that the training split has, in alphabetical order.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .boxes import Fault
from .errors import DatasetError
from .findings import Kind
from .images import BadImageError, image_suffixes, inspect_image
from .records import Place, Records, RecordsBuilder

LOOKED_FOR = (
    "ImageSets/Main/{split}.txt with Annotations/ and JPEGImages/ or images/",
    "{split}/ with images and their .xml files, or with Annotations/ and JPEGImages/ or images/",
    "annotations/{split}/ with .xml files, and images/{split}/",
)
LOOKED_FOR_WHOLE = (
    "Annotations/ with .xml files, and JPEGImages/ or images/",
    "images and their .xml files, side by side",
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NUM_THREADS = 16


@dataclass(frozen=True)
class VocSplit:
    """A split in Pascal VOC's format.

    Args:
        path: folder of the XML files.
        image_root: folder of the images.
        names_file: names the images, without ending, one in each line; None for all in the folder.
    """

    path: Path
    image_root: Path
    names_file: Path | None = None
    format: ClassVar[str] = "Pascal VOC format"

    def records(self) -> Records:
        """Read all annotations.

        Raises:
            DatasetError: if there are no images.
        """
        images = {p.stem: p for p in sorted(self.image_root.iterdir()) if _is_image(p)}
        stems = self._stems(images)
        if not stems:
            raise DatasetError(f"{self.names_file or self.path}: there are no images")
        files = [self.path / f"{stem}.xml" for stem in stems]
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            trees = list(pool.map(_read, files))
        names = {name for tree in trees if isinstance(tree, Element) for name in _class_names(tree)}
        classes = {name: index for index, name in enumerate(sorted(names), 1)}
        builder = RecordsBuilder(
            self.names_file or self.path, {index: name for name, index in classes.items()}
        )
        findings = builder.findings
        for (stem, line), file, tree in zip(stems.items(), files, trees, strict=True):
            if isinstance(tree, Fault):
                findings.add(tree.kind, "", tree.what)
                continue
            if tree is None:
                listed = str(Place(str(self.names_file), line)) if self.names_file else ""
                findings.add(Kind.NO_LABELS, listed or repr(str(file)), f"no {file.name}")
                tree = Element("annotation")
            image = images.get(stem) or self.image_root / (_text(tree, "filename") or f"{stem}.jpg")
            size = _size(tree)
            if size is None:
                try:
                    size = inspect_image(image).upright_size
                except BadImageError as error:
                    findings.add(error.kind, repr(str(image)), error.reason, (str(image),))
                    continue
            builder.add_image(image.relative_to(self.image_root).as_posix(), size)
            for node in tree.iterfind("object"):
                try:
                    name, box, place = _read_object(node, file)
                except Fault as fault:
                    findings.add(fault.kind, "", fault.what, (str(image),))
                    continue
                if 0 in box[:2]:
                    findings.add(Kind.FROM_ZERO, str(place), "", (str(image),))
                if _text(node, "difficult") == "1":
                    findings.add(Kind.DIFFICULT, str(place), "", (str(image),))
                builder.add_box(classes[name], to_xywh(*box), place)
        return builder.records()

    def _stems(self, images: dict[str, Path]) -> dict[str, int]:
        """Return the names of the images without ending, and the line that names each."""
        if self.names_file is None:
            return dict.fromkeys(sorted({*images, *(p.stem for p in self.path.glob("*.xml"))}), 0)
        lines = self.names_file.read_text("utf-8-sig").splitlines()
        # Lists of a class have a second column.
        return {line.split()[0]: i for i, line in enumerate(lines, 1) if line.strip()}


def parse_xml(content: bytes) -> Element:
    """Read XML that needs no document type, and so can't ask for other files or endless memory.

    Returns:
        The root; every element has the line where it begins, from 1, as its only attribute.

    Raises:
        Fault: if it is none; the text begins with the line.
    """
    tree, parser = TreeBuilder(), expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        tree.start(tag, {"line": str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        raise Fault(Kind.BAD_XML, f"{parser.CurrentLineNumber}: has a document type")

    parser.StartElementHandler, parser.EndElementHandler = start, tree.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = tree.data, refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        what = expat.ErrorString(error.code)
        raise Fault(Kind.BAD_XML, f"{error.lineno}: not XML, or cut off ({what})") from None
    return tree.close()


def to_xywh(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Turn corners that count from 1, both of them in the box, into XYWH in pixels.

    Corners in the wrong order give a negative size.
    """
    width, height = right - left, bottom - top
    return [left - 1, top - 1, width + (width >= 0), height + (height >= 0)]


def find_split(root: Path, split: str) -> VocSplit | None:
    """Return a split of a folder, None if it has none of this name in this format."""
    for names_file in (root / f"ImageSets/Main/{split}.txt", root / f"ImageSets/{split}.txt"):
        found = _annotations_and_images(root)
        if names_file.is_file() and found is not None:
            return VocSplit(*found, names_file)
    folder, annotations = root / split, root / "annotations" / split
    if _has_xml(annotations) and (root / "images" / split).is_dir():
        return VocSplit(annotations, root / "images" / split)
    return find_whole(folder) if folder.is_dir() else None


def find_whole(root: Path) -> VocSplit | None:
    """Return all images of a folder without splits, None if that is not how it is."""
    if (root / "ImageSets").is_dir():
        return None
    found = _annotations_and_images(root)
    if found is None and _has_xml(root) and any(_is_image(p) for p in root.iterdir()):
        found = root, root
    return None if found is None else VocSplit(*found)


def _annotations_and_images(root: Path) -> tuple[Path, Path] | None:
    annotations = [root / name for name in ("Annotations", "annotations") if _has_xml(root / name)]
    images = [root / name for name in ("JPEGImages", "images") if (root / name).is_dir()]
    return (annotations[0], images[0]) if annotations and images else None


def _has_xml(folder: Path) -> bool:
    return any(True for _ in folder.glob("*.xml"))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in image_suffixes()


def _read(file: Path) -> Element | Fault | None:
    """Return the annotation of an image, what is wrong with it, or None if there is no file."""
    try:
        return parse_xml(file.read_bytes())
    except FileNotFoundError:
        return None
    except Fault as fault:
        return Fault(fault.kind, f"{file}:{fault.what}")


def _text(node: Element, path: str) -> str:
    """Return the text of the first element at a path in a node; empty if there is none."""
    return node.findtext(path, "").strip()


def _class_names(tree: Element) -> Iterator[str]:
    return filter(None, (_text(node, "name") for node in tree.iterfind("object")))


def _size(tree: Element) -> tuple[int, int] | None:
    """Return width and height of the image, None if they are not said."""
    width, height = _text(tree, "size/width"), _text(tree, "size/height")
    if not all(side.isdecimal() and int(side) for side in (width, height)):
        return None
    return int(width), int(height)


def _read_object(node: Element, file: Path) -> tuple[str, list[float], Place]:
    """Return class name, corners, and where the box stands.

    Raises:
        Fault: if something is lacking; the text begins with file and line.
    """
    name, box = _text(node, "name"), node.find("bndbox")
    if not name or box is None:
        lacking = "bndbox" if name else "name"
        raise Fault(Kind.BAD_XML, f"{file}:{node.get('line')}: the object has no {lacking}")
    texts = {corner: _text(box, corner) for corner in _CORNERS}
    try:
        return (
            name,
            [float(text) for text in texts.values()],
            Place(str(file), int(box.attrib["line"])),
        )
    except ValueError:
        raise Fault(Kind.BAD_XML, f"{file}:{box.get('line')}: not four numbers: {texts}") from None
