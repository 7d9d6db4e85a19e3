"""What an exported file says of itself: text by name, which every format has a place for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.data import transforms as T

from .. import __version__
from ..checkpoint.integrity import tensor_checksum
from ..data.transforms import ResizeShortSide
from ..detector import Detector

PREFIX = "sap_detr."


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself.

    Attributes:
        class_names: by class number; None where they are not known.
        short_side: length in pixels that the short side of an image is resized to before; None
            where the model was scored with something else than a plain resize.
        max_size: limit of the long side; None for no limit.
        precision: one of the precisions.
        size: (height, width) that images must be padded to; None for any.
        smallest_side: least height and width in pixels, where any are taken.
        weights_sha256: checksum of the weights that were exported.
        image_format: channel order of the images.
        version: of this package.
    """

    class_names: list[str | None] | None
    short_side: int | None
    max_size: int | None
    precision: str
    size: tuple[int, int] | None
    smallest_side: int
    weights_sha256: str
    image_format: str = "RGB"
    version: str = __version__

    @classmethod
    def of(
        cls,
        detector: Detector,
        precision: str,
        size: tuple[int, int] | None,
        smallest_side: int,
    ) -> Metadata:
        """Describe the export of a detector in one precision."""
        names = None if detector.class_names is None else list(detector.class_names)
        state = {k: v.cpu() for k, v in detector.predictor.model.state_dict().items()}
        resize = _test_size(detector.predictor.augmentations)
        checksum = tensor_checksum(state, names)
        return cls(names, *resize, precision, size, smallest_side, checksum)

    def as_text(self) -> dict[str, str]:
        """Return all as JSON, by names that begin with ``sap_detr.``."""
        return {PREFIX + name: json.dumps(value) for name, value in vars(self).items()}

    @classmethod
    def from_text(cls, text: Mapping[str, str]) -> Metadata | None:
        """Read what :meth:`as_text` returned; None where a file has nothing of it."""
        found: dict[str, Any] = {
            name: json.loads(text[PREFIX + name])
            for name in cls.__dataclass_fields__
            if PREFIX + name in text
        }
        if found.keys() != cls.__dataclass_fields__.keys():
            return None
        if found["size"] is not None:
            found["size"] = tuple(found["size"])
        return cls(**found)


def _test_size(augmentations: T.Augmentation) -> tuple[int | None, int | None]:
    parts = getattr(augmentations, "augs", [augmentations])
    if len(parts) != 1:
        return None, None
    (part,) = parts
    if isinstance(part, ResizeShortSide) and len(part.short_sides) == 1:
        return part.short_sides[0], part.max_size
    return None, None
