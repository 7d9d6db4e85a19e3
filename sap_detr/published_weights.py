"""The files of weights that the methods' authors published, as far as they are known here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights.

    Attributes:
        config: name of the config whose model it fills.
        file: its name.
        where: the place from which its authors hand it out.
        address: from which it can be fetched; "" where it must be got by hand.
        sha256: beginning of its SHA-256, in hexadecimal digits; "" if it is not known here.
        megabytes: its size; None if it is not known here.
    """

    config: str
    file: str
    where: str
    address: str = ""
    sha256: str = ""
    megabytes: int | None = None

    @property
    def name(self) -> str:
        """The file without its ending."""
        return PurePath(self.file).stem


def _detr(config: str, file: str, sha256: str, megabytes: int) -> PublishedWeights:
    # torch.hub's convention: the end of the name is the beginning of the hash.
    name = f"{file}-{sha256}.pth"
    where = "https://github.com/facebookresearch/detr"
    address = f"https://dl.fbaipublicfiles.com/detr/{name}"
    return PublishedWeights(f"detr/{config}.py", name, where, address, sha256, megabytes)


PUBLISHED = (
    _detr("detr_r50_500ep", "detr-r50", "e632da11", 159),
    _detr("detr_dc5_r50_500ep", "detr-r50-dc5", "f0fb7ef5", 159),
    _detr("detr_r101_500ep", "detr-r101", "2c7b67e5", 232),
    _detr("detr_dc5_r101_500ep", "detr-r101-dc5", "a2e86def", 232),
    PublishedWeights(
        "dino/dino_r50_4scale_12ep.py",
        "checkpoint0011_4scale.pth",
        "https://github.com/IDEA-Research/DINO",
    ),
)
# Whose files have no names that are known here.
PLACES = {
    "sap_detr": "https://github.com/liuyang-ict/SAP-DETR",
    "sam_detr": "https://github.com/ZhangGongjie/SAM-DETR",
    "dino": "https://github.com/IDEA-Research/DINO",
}
