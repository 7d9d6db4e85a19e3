"""Reports the images that training could not read."""

from __future__ import annotations

from typing import Any

from detectron2.engine import HookBase

from ..data import UnreadableImages


class BadImageCount(HookBase):  # type: ignore[misc]
    """Share the count of bad images between the processes, and makes a metric of it.

    Files that were found after the last sharing are not in a checkpoint; a resumed run finds them
    again.

    Args:
        bad_images: of the training loader.
        period: iterations between two sharings.
    """

    def __init__(self, bad_images: UnreadableImages, period: int) -> None:
        self._bad_images = bad_images
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._bad_images.share()
            count = len(self._bad_images.files)
            self.trainer.storage.put_scalar("bad_images", count, smoothing_hint=False)

    def after_train(self) -> None:
        self._bad_images.log_summary()

    def state_dict(self) -> dict[str, Any]:
        return self._bad_images.state_dict() if self._bad_images.files else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._bad_images.load_state_dict(state_dict)
