"""The files of weights that the methods' authors published, as far as they are known here."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights.

    Attributes:
        config: name of the config whose model it fills.
        file: its name.
        where: the place from which its authors hand it out.
        sha256: beginning of its SHA-256, in hexadecimal digits; "" if it is not known here.
        megabytes: its size; None if it is not known here.
    """

    config: str
    file: str
    where: str
    sha256: str = ""
    megabytes: int | None = None


PUBLISHED = (
    PublishedWeights(
        "detr/detr_r50_500ep.py",
        "detr-r50-e632da11.pth",
        "https://github.com/facebookresearch/detr",
        # torch.hub's convention: the end of the name is the beginning of the hash.
        sha256="e632da11",
    ),
    PublishedWeights(
        "dino/dino_r50_4scale_12ep.py",
        "checkpoint0011_4scale.pth",
        "https://github.com/IDEA-Research/DINO",
    ),
)


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
