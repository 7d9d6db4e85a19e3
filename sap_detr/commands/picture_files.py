"""The pictures of a command line: which these are, what is wrong with them, names of drawings."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..bad_files import BadFiles
from ..data import BadImageError, PixelRange, find_images, inspect_image
from ..data.findings import Kind
from ..engine import NonFiniteDetectionsError
from ..errors import UserError
from ..modeling import TooFewCellsError
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
            images += _images_of(path)
    return images


def is_usable(file: Path, pixels: PixelRange, bad: BadFiles) -> bool:
    """Say whether a file looks like an image; only a part of it is read.

    Args:
        file: the file.
        pixels: what becomes of images of more than 8 bits.
        bad: gets the file if it does not.

    Raises:
        ImageError: it does not, and it is to stop there.
    """
    with bad.skipping(file), image_errors(file):
        inspect_image(file, pixel_range=pixels)
        return True
    return False


def _images_of(path: Path) -> list[Path]:
    try:
        images = [found.content for found in find_images(path)]
        inside = path.iterdir() if path.is_dir() else ()
        # What is listed and not there is a link to nothing.
        files = [file for file in inside if file.is_file() or not file.exists()]
    except ValueError as error:
        raise ImageError(str(error)) from error
    except OSError as error:
        raise ImageError(f"the folder {path} can't be read: {error.strerror}") from error
    if others := sorted(set(files).difference(images)):
        names = listing((file.name for file in others), most=3)
        print(f"{path}: left out, as hidden or not named like an image: {names}")
    return images


@contextlib.contextmanager
def image_errors(path: Path) -> Iterator[None]:
    """Make ImageErrors, which name the file, of what is wrong with an image."""
    try:
        yield
    except BadImageError as error:
        remedy = f"; {error.kind.remedy}" if error.kind is Kind.UNUSABLE_PIXELS else ""
        raise ImageError(f"{path} can't be read as an image: {error.reason}{remedy}") from error
    except (NonFiniteDetectionsError, TooFewCellsError) as error:
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
