"""Writers of metrics for experiment trackers, to be named in ``train.writers`` of a config."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import defaultdict
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

# Over which Detectron2's writers take medians of losses.
_WINDOW = 20


class TrackerWriter(EventWriter):  # type: ignore[misc]
    """Hands over what is new. The tracker's run begins with the first metrics."""

    def __init__(self) -> None:
        self._last_iteration = -1
        self._run: Any = None

    def write(self) -> None:
        new: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_iteration:
                new[iteration][name] = value
        if new and self._run is None:
            self._run = self.start()
        for iteration, metrics in sorted(new.items()):
            self.log(metrics, iteration)
            self._last_iteration = iteration

    def close(self) -> None:
        if self._run is not None:
            self.finish()
            self._run = None

    @abstractmethod
    def start(self) -> Any:
        """Begin a run, and return it."""

    @abstractmethod
    def log(self, metrics: dict[str, float], iteration: int) -> None:
        """Hand over the metrics of an iteration."""

    @abstractmethod
    def finish(self) -> None:
        """End the run."""


class MlflowWriter(TrackerWriter):
    """Log to MLflow: ``pip install mlflow``.

    Args:
        tracking_uri: where to, such as ``sqlite:///mlflow.db`` or a server.
        experiment: its name; made if it is not there.
        run_name: by default MLflow makes one up.
    """

    def __init__(self, tracking_uri: str, experiment: str, run_name: str | None = None) -> None:
        super().__init__()
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._experiment = experiment
        self._run_name = run_name

    def start(self) -> Any:
        """Begin a run."""
        found = self._client.get_experiment_by_name(self._experiment)
        number = found.experiment_id if found else self._client.create_experiment(self._experiment)
        return self._client.create_run(number, run_name=self._run_name)

    def log(self, metrics: dict[str, float], iteration: int) -> None:
        """Log with names that MLflow takes: class names may hold other characters."""
        for name, value in metrics.items():
            allowed = re.sub(r"[^\w\-. /:]", "_", name, flags=re.ASCII)
            self._client.log_metric(self._run.info.run_id, allowed, value, step=iteration)

    def finish(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run.info.run_id)


class WandbWriter(TrackerWriter):
    """Log to Weights & Biases: ``pip install wandb``.

    Args:
        project: its name.
        **options: more of ``wandb.init``, such as ``mode="offline"``, ``dir``, ``name``.
    """

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        import wandb

        self._init = wandb.init
        self._options = {"project": project, **options}

    def start(self) -> Any:
        """Begin a run."""
        return self._init(**self._options)

    def log(self, metrics: dict[str, float], iteration: int) -> None:
        """Log at a step."""
        self._run.log(metrics, step=iteration)

    def finish(self) -> None:
        """End the run, and wait until everything is sent or written."""
        self._run.finish()
