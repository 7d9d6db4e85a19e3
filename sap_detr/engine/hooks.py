"""Training hooks that Detectron2 does not have in all its versions."""

from __future__ import annotations

import math
import sys
from typing import Any

from detectron2.engine import HookBase
from tqdm import tqdm

from ..checkpoint import SafeCheckpointer


class BestCheckpoint(HookBase):
    """Saves ``model_best`` whenever an evaluation sets a new record.

    Place it after the evaluation.

    Args:
        checkpointer: does the saving.
        metric: key of the evaluation result, such as "bbox/AP"; larger is better.
    """

    def __init__(self, checkpointer: SafeCheckpointer, metric: str = "bbox/AP") -> None:
        self._checkpointer = checkpointer
        self._metric = metric
        self.best: float | None = None
        self._seen_iteration = -1

    def after_step(self) -> None:
        self._save_if_best()

    def after_train(self) -> None:
        # The last evaluation happens in after_train of its hook.
        self._save_if_best()

    def _save_if_best(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self._metric, (math.nan, -1))
        if iteration == self._seen_iteration or not math.isfinite(value):
            return
        self._seen_iteration = iteration
        if self.best is None or value > self.best:
            self.best = value
            self._checkpointer.save("model_best", tag_last=False)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best is None else {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class ProgressBar(HookBase):
    """A bar with the time left, the loss and the last AP, for runs that someone watches."""

    def before_train(self) -> None:
        self._bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="it",
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        shown = {
            label: f"{latest[key][0]:.3g}"
            for label, key in (("loss", "total_loss"), ("AP", "bbox/AP"), ("AP50", "bbox/AP50"))
            if key in latest
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        self._bar.close()
