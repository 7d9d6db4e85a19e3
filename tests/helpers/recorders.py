"""A hook and a writer for configs to name, which keep what they see."""

from __future__ import annotations

from typing import ClassVar

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter, get_event_storage


class StepRecorder(HookBase):  # type: ignore[misc]
    """Counts steps, on from what a checkpoint says."""

    counts: ClassVar[list[int]] = []

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def after_step(self) -> None:
        self.count += 1

    def after_train(self) -> None:
        self.counts.append(self.count)

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


class LossRecorder(EventWriter):  # type: ignore[misc]
    """Keeps the losses of the iterations at which metrics are written."""

    losses: ClassVar[dict[int, float]] = {}

    def write(self) -> None:
        value, iteration = get_event_storage().latest()["total_loss"]
        self.losses[iteration] = value
