"""Weights by name: those that come along, those that were fetched, and how to fetch them."""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from pathlib import Path

from .published_weights import PLACES, PUBLISHED, PublishedWeights
from .small_models import small_models
from .text import listing

FOLDER_VARIABLE = "SAP_DETR_CHECKPOINTS"


class WeightsError(FileNotFoundError):
    """Weights are not there, or can't be fetched; the message says what to do."""


def weights_folder() -> Path:
    """Return where fetched files lie: ``$SAP_DETR_CHECKPOINTS``, or in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(FOLDER_VARIABLE) or cache / "sap_detr" / "checkpoints")


def published(name: str) -> PublishedWeights | None:
    """Return the published weights of a file's name, with or without ending, or of a config.

    Args:
        name: such as ``detr-r50-e632da11`` or ``detr/detr_r50_500ep``.
    """
    wanted = name.removeprefix("configs/").removesuffix(".py")
    for known in PUBLISHED:
        if wanted in (known.file, known.name, known.config.removesuffix(".py")):
            return known
    return None


def find_weights(weights: str | os.PathLike[str]) -> Path:
    """Return the file that a name stands for.

    Args:
        weights: a file; the name of a small model that comes along, such as "small_sap_detr"; or
            that of published weights that were fetched, such as "detr-r50-e632da11".

    Raises:
        WeightsError: the name is that of published weights that are not there.
    """
    path = Path(weights)
    if path.is_file():
        return path
    name = os.fspath(weights)
    for model in small_models():
        if name == model.name:
            return model.file
    known = published(name)
    if known is None:
        return path
    file = weights_folder() / known.file
    if not file.is_file():
        raise WeightsError(f"{file} is not there. {how_to_get(name)}")
    return file


def weights_of(config: str) -> Path:
    """Return the file of a config's weights, from the folder of all weights or fetched.

    Args:
        config: name of a config.

    Raises:
        WeightsError: it is not there, and has no plain address or can't be fetched.
    """
    stem, folder = config.removeprefix("configs/").removesuffix(".py"), weights_folder()
    known = published(config)
    names = [f"{stem}.safetensors", f"{stem}.pth", *([known.file] if known is not None else [])]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if known is not None and known.address:
        return fetch(known, folder)
    raise WeightsError(
        f"no weights of {config} ({FOLDER_VARIABLE} names their folder): looked for "
        f"{', '.join(str(folder / name) for name in names)}. {how_to_get(config)}"
    )


def how_to_get(name: str) -> str:
    """Say in a sentence how to get the weights of a name, which may be unknown."""
    known = published(name)
    if known is not None and known.address:
        return f"Fetch it with: sap-detr weights get {known.name}"
    if known is not None:
        return (
            f"Its authors hand it out by hand, see {known.where}: save it in {weights_folder()} as "
            f"{known.file}, or name it with --weights"
        )
    method = name.removeprefix("configs/").partition("/")[0]
    if method in PLACES:
        return (
            f"Weights of {method} are in the folder that its authors' README names, see "
            f"{PLACES[method]}: get them by hand, and name the file with --weights"
        )
    names = [known.name for known in PUBLISHED] + [model.name for model in small_models()]
    return f"No weights are known as {name!r}: there are {listing(names, 20)}"


def fetch(known: PublishedWeights, folder: Path, progress: bool = True) -> Path:
    """Fetch published weights, unless they are there.

    The beginning of their SHA-256 is compared. What was cut off or is another file is never left
    under the file's name.

    Args:
        known: the weights.
        folder: where to put them; it is made.
        progress: whether to show it.

    Returns:
        The file.

    Raises:
        WeightsError: they have no address, the network fails, or what came is not what was
            published.
        OSError: the folder can't be made.
    """
    file = folder / known.file
    if file.is_file():
        return file
    if not known.address:
        raise WeightsError(how_to_get(known.name))
    # Names are listed without waiting for it.
    from torch.hub import download_url_to_file

    folder.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(known.address, str(file), known.sha256, progress)
    except RuntimeError as error:  # the hash
        raise WeightsError(
            f"what came from {known.address} was cut off or is another file ({error}): nothing was "
            "kept. Try again"
        ) from error
    except (OSError, HTTPException) as error:
        raise WeightsError(
            f"{known.address} can't be fetched ({error}). Get it in another way and put it into "
            f"{folder}"
        ) from error
    return file


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
