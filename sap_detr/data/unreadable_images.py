"""Keeps count of the images that training could not read and replaced by others."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

from detectron2.utils import comm

from ..text import listing
from .errors import DatasetError

logger = logging.getLogger(__name__)

MAX_LISTED = 20

# A file, and why it can't be read.
UnreadableImage = tuple[str, str]


class UnreadableImages:
    """The images of a training set that could not be read, from all processes.

    Every file is reported once, in the log. Training stops once there are more than ``max_share``
    of the data set: a few damaged files among many do no harm, but a disk that fails would change
    what is trained on.

    Args:
        num_images: images of the data set.
        max_share: most different images that may be bad, as a share of the data set, rounded up; 0
            for none.

    Attributes:
        files: the reason for every unreadable file.
        num_replaced: how often an image was replaced.

    Raises:
        ValueError: if ``max_share`` is not a share.
    """

    def __init__(self, num_images: int, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"max_bad_share must be in 0..1, got {max_share}")
        self.num_images = num_images
        self.max_share = max_share
        self.files: dict[str, str] = {}
        self.num_replaced = 0
        self._new: list[UnreadableImage] = []

    def note(self, images: Iterable[UnreadableImage]) -> None:
        """Take note of images that this process had to replace.

        A process that is alone reports them at once; one of several at the next ``share``.

        Raises:
            DatasetError: as ``share`` does.
        """
        self._new += images
        if self._new and comm.get_world_size() == 1:
            self.share()

    def share(self) -> None:
        """Bring all processes to the same count. To be called by all of them at the same time.

        Raises:
            DatasetError: in all processes, if there are too many.
        """
        gathered = [image for images in comm.all_gather(self._new) for image in images]
        self._new = []
        for file_name, reason in gathered:
            self.num_replaced += 1
            if file_name not in self.files:
                self.files[file_name] = reason
                logger.warning(f"image replaced by another one: {file_name}: {reason}")
        allowed = math.ceil(self.max_share * self.num_images)
        if len(self.files) > allowed:
            raise DatasetError(
                f"{len(self.files)} of {self.num_images} training images can't be read, more than "
                f"the {allowed} that dataloader.train.max_bad_share={self.max_share:g} allows:\n"
                f"{self._listed()}\nReplace them or remove them from the annotations; "
                "sap-detr check --full finds all such files."
            )

    def log_summary(self) -> None:
        """Log at the end of training which images were replaced, if there was any."""
        if self.files:
            logger.warning(
                f"{len(self.files)} of {self.num_images} training images could not be read, and "
                f"were replaced by others {self.num_replaced} times:\n{self._listed()}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the count of a resumed run goes on."""
        return {"files": dict(self.files), "num_replaced": self.num_replaced}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.files = dict(state_dict["files"])
        self.num_replaced = state_dict["num_replaced"]

    def _listed(self) -> str:
        lines = (f"  - {file_name}: {reason}" for file_name, reason in self.files.items())
        return listing(lines, MAX_LISTED, "\n")
