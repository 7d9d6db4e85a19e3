"""Training hooks that Detectron2 does not have in all its versions."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..checkpoint import BEST, FINAL, SafeCheckpointer
from .metrics_file import METRICS_FILE, read_evaluation
from .preemption import PreemptionHook

logger = logging.getLogger(__name__)


class Evaluation(hooks.EvalHook):  # type: ignore[misc]
    """Detectron2's, which ends at once if the run is to stop, and does nothing after an error.

    Detectron2's own would evaluate also if the last step has failed; but that takes all processes,
    and only one of them may have failed.

    Args:
        period: iterations between two evaluations; 0 for the one at the end only.
        evaluate: returns a nested dict of metrics.
        preemption: saves a checkpoint before, so that nothing is lost.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], dict[str, Any]], preemption: PreemptionHook
    ) -> None:
        super().__init__(period, evaluate)
        self._preemption = preemption

    def before_train(self) -> None:
        # Checkpoints are written before the evaluation of their iteration: a run that was ended
        # during it makes up for it.
        last = self.trainer.start_iter - 1
        due = self._period > 0 and last >= 0 and (last + 1) % self._period == 0
        if due and last + 1 < self.trainer.max_iter and not self._is_logged(last):
            logger.info(f"repeating the evaluation after iteration {last}")
            self.trainer.iter = self.trainer.storage.iter = last
            self._do_eval()

    def _is_logged(self, iteration: int) -> bool:
        path = Path(self.trainer.checkpointer.save_dir) / METRICS_FILE
        found = comm.is_main_process() and bool(read_evaluation(path, iteration))
        return bool(comm.all_gather(found)[0])

    def _do_eval(self) -> None:
        self._preemption.save()
        with self._preemption.stop.at_once():
            super()._do_eval()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class BestCheckpoint(HookBase):  # type: ignore[misc]
    """Save ``model_best`` whenever an evaluation sets a new record.

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
        self._warned = False

    def before_train(self) -> None:
        # Checkpoints are written before the evaluation of their iteration: the one that a run
        # resumes from may not know of the last record.
        stored = self._checkpointer.read_own(BEST)
        record = stored.get("trainer", {}).get("hooks", {}).get(type(self).__qualname__, {})
        self.best = max(
            (best for best in (self.best, record.get("best")) if best is not None), default=None
        )
        self._save_if_best()

    def after_step(self) -> None:
        self._save_if_best()

    def after_train(self) -> None:
        # The last evaluation happens in after_train of its hook.
        self._save_if_best()

    def _save_if_best(self) -> None:
        latest = self.trainer.storage.latest()
        self._warn_if_missing(latest)
        value, iteration = latest.get(self._metric, (math.nan, -1))
        if iteration == self._seen_iteration or not math.isfinite(value):
            return
        self._seen_iteration = iteration
        if self.best is None or value > self.best:
            before, self.best = self.best, value
            if not self._checkpointer.save(BEST, tag_last=False):
                self.best = before

    def _warn_if_missing(self, latest: Mapping[str, Any]) -> None:
        """Tell once, after the first evaluation, that it does not give the metric."""
        given = [key for key in latest if "/" in key]
        if given and self._metric not in latest and not self._warned:
            logger.warning(
                f"evaluations give no {self._metric}, so there will be no {BEST}: set "
                f"train.best_metric to one of {', '.join(given)}"
            )
            self._warned = True

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best is None else {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class StoppedEarly(BaseException):
    """Training ends before its last iteration, as it should. Not an error, so not an Exception."""


class EarlyStopping(HookBase):  # type: ignore[misc]
    """End training when evaluations set no new record any more, with ``model_final`` as always.

    Place it before the writers, in all processes. A resumed run knows the evaluations before.

    Args:
        checkpointer: does the saving.
        metric: key of the evaluation result, such as "bbox/AP"; larger is better.
        period: iterations between two evaluations.
        patience: evaluations without a record after which training ends.
        min_delta: a record is better than the last by more than this.
    """

    def __init__(
        self,
        checkpointer: SafeCheckpointer,
        metric: str,
        period: int,
        patience: int,
        min_delta: float = 0.0,
    ) -> None:
        self._checkpointer = checkpointer
        self._metric = metric
        self._period = period
        self._patience = patience
        self._min_delta = min_delta
        self.values: dict[int, float] = {}

    def before_train(self) -> None:
        # Checkpoints are written before the evaluation of their iteration.
        last = self.trainer.start_iter - 1
        path = Path(self._checkpointer.save_dir) / METRICS_FILE
        self._note(read_evaluation(path, last).get(self._metric, math.nan), last)
        self._end_if_due(last)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 and done < self.trainer.max_iter:
            self._end_if_due(done - 1)

    def _note(self, value: float, iteration: int) -> None:
        if math.isfinite(value):
            self.values[iteration] = value

    def _end_if_due(self, iteration: int) -> None:
        self._note(*self.trainer.storage.latest().get(self._metric, (math.nan, -1)))
        since = evaluations_since_best(list(self.values.values()), self._min_delta)
        # Only the main process knows the results.
        if not comm.all_gather(since >= self._patience)[0]:
            return
        logger.info(
            f"training ends early: {self._metric} was {max(self.values.values(), default=0):.4g} "
            f"at its best, and {since} evaluations have set no record since"
        )
        # Before a resumed run starts, it is one ahead.
        self.trainer.iter = self.trainer.storage.iter = iteration
        if comm.is_main_process():
            self._checkpointer.save(FINAL, iteration=iteration)
        raise StoppedEarly

    def state_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = dict(state_dict["values"])


def evaluations_since_best(values: Sequence[float], min_delta: float = 0.0) -> int:
    """Return how many evaluations came after the last record.

    Args:
        values: of the metric, in their order; the first is a record.
        min_delta: a record is better than the last by more than this.
    """
    best, since = -math.inf, 0
    for value in values:
        if value > best + min_delta:
            best, since = value, 0
        else:
            since += 1
    return since


class Pace(HookBase):  # type: ignore[misc]
    """Say once, when training has found its pace, how fast it is and when it will be done.

    Evaluations, which are not known yet, come on top.

    Args:
        images: of an iteration, in all processes.
        first, count: iterations that are left out, because they are slower, and that are timed.
    """

    def __init__(self, images: int, first: int = 5, count: int = 20) -> None:
        self._images = images
        self._first, self._count = first, count
        self._start = 0.0

    def after_step(self) -> None:
        done = self.trainer.iter + 1 - self.trainer.start_iter
        if done == self._first:
            self._start = time.perf_counter()
        if done == self._first + self._count:
            each = (time.perf_counter() - self._start) / self._count
            left = timedelta(seconds=round(each * (self.trainer.max_iter - self.trainer.iter - 1)))
            logger.info(
                f"pace: {self._images / each:.3g} images a second, {each:.3g} s an iteration, "
                f"{left} to go without evaluations"
            )


class ProgressBar(HookBase):  # type: ignore[misc]
    """A bar with the time left, the loss and the last AP, for runs that someone watches.

    Lines of the log appear above it.
    """

    def before_train(self) -> None:
        self._redirected = ExitStack()
        loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2", "sap_detr")]
        self._redirected.enter_context(logging_redirect_tqdm(loggers))
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
        self._redirected.close()
