"""The pictures of a command line: which these are, what is wrong with them, names of drawings."""

from __future__ import annotations

import contextlib
import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..bad_files import BadFiles
from ..data import BadImageError, PixelRange, inspect_image
from ..data import find_images as list_images
from ..data.findings import Kind
from ..engine import NonFiniteDetectionsError
from ..errors import UserError
from ..text import listing


class PredictError(UserError, ValueError):
    """What was asked for can't be done; the message says why."""


class ImageError(PredictError):
    """An image, or a folder of images, can't be used; others can."""


def list_files(paths: Sequence[Path], bad: BadFiles) -> list[Path]:
    """Return the images that files, folders (without their sub-folders) and globs stand for.

    They are in order; of a folder these are the files that are named like an image of a known
    format and not hidden; how many files are left out is printed.

    Args:
        paths: files, folders, and globs such as ``folder/**/*.jpg``.
        bad: gets paths that are missing, and folders and globs without images.

    Raises:
        ImageError: for the first of these, if it is to stop there.
    """
    images: list[Path] = []
    for path in paths:
        with bad.skipping(path):
            if path.is_dir():
                images += _images_of_folder(path)
            elif path.is_file():
                images.append(path)
            elif glob.has_magic(str(path)):
                images += _images_of(path)
            else:
                raise ImageError(f"there is no file or folder {path}")
    return images


def usable(files: Iterable[Path], pixels: PixelRange, bad: BadFiles) -> list[Path]:
    """Return the files that look like images, of which only a part is read.

    Args:
        files: the files.
        pixels: what becomes of images of more than 8 bits.
        bad: gets the others.

    Raises:
        ImageError: for the first of these, if it is to stop there.
    """
    found = []
    for file in files:
        with bad.skipping(file), image_errors(file):
            inspect_image(file, pixel_range=pixels)
            found.append(file)
    return found


def _images_of_folder(folder: Path) -> list[Path]:
    try:
        files = {path for path in folder.iterdir() if path.is_file()}
    except OSError as error:
        raise ImageError(f"the folder {folder} can't be read: {error.strerror}") from error
    images = _images_of(folder)
    if others := sorted(files.difference(images)):
        names = listing((file.name for file in others), most=3)
        print(f"{folder}: left out, as hidden or not named like an image: {names}")
    return images


def _images_of(path: Path) -> list[Path]:
    try:
        return [found.content for found in list_images(path)]
    except ValueError as error:
        raise ImageError(str(error)) from error


@contextlib.contextmanager
def image_errors(path: Path) -> Iterator[None]:
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
