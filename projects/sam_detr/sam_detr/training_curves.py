"""The published models' AP after every epoch, to compare one's own runs with.

``training_curves.md`` says where the numbers come from.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from sap_detr.analysis import build_without_weights, count_parameters
from sap_detr.analysis.building import PUBLISHED_NUM_CLASSES
from sap_detr.analysis.tables import format_table
from sap_detr.bad_files import BadFiles
from sap_detr.text import listing
from sap_detr.visualization import MetricsError, plot_by_epoch, read_by_epoch
from sap_detr.visualization.palette import SERIES_COLORS

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
SCHEDULES = (12, 50)

_VARIANTS = ("R50", "DC5-R50", "MS-R50")
_FILE = Path(__file__).with_name("training_curves.csv")


@dataclass(frozen=True)
class PublishedCurves:
    """How a published model became better.

    Attributes:
        config: its config's name, without folder and ending.
        variant: "R50", "DC5-R50" or "MS-R50".
        smca: whether the cross-attention has a Gaussian.
        schedule: epochs of the recipe.
        epochs: (n,), completed ones; the log may lack the last.
        values: for each of ``METRICS`` (n,), in %.
    """

    config: str
    variant: str
    smca: bool
    schedule: int
    epochs: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]

    @property
    def label(self) -> str:
        """What the curve is called."""
        return self.variant + (" SMCA" if self.smca else "")


def read_published() -> dict[str, PublishedCurves]:
    """Return the twelve published models by config name: 12 epochs first, worst first."""
    rows: dict[str, list[dict[str, str]]] = {}
    with _FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["model"], []).append(row)
    models = [_published(config, lines) for config, lines in rows.items()]
    models.sort(key=lambda m: (m.schedule, _VARIANTS.index(m.variant), m.smca))
    return {model.config: model for model in models}


def _published(config: str, rows: Sequence[Mapping[str, str]]) -> PublishedCurves:
    words = config.removeprefix("sam_detr_").split("_")
    return PublishedCurves(
        config=config,
        variant="-".join(word.upper() for word in words[: words.index("r50") + 1]),
        smca="smca" in words,
        schedule=int(words[-1].removesuffix("ep")),
        epochs=np.array([int(row["epoch"]) + 1.0 for row in rows]),
        values={name: np.array([float(row[name]) for row in rows]) for name in METRICS},
    )


def select_published(wanted: Sequence[str] = ()) -> list[PublishedCurves]:
    """Return some of the published models, in the order of :func:`read_published`.

    Args:
        wanted: names of configs, or "12" and "50" for all models of as many epochs; none for all.

    Raises:
        ValueError: if there is no such model.
    """
    models = read_published()
    groups = {str(epochs) for epochs in SCHEDULES}
    if unknown := [name for name in wanted if name not in models and name not in groups]:
        raise ValueError(
            f"no published model {', '.join(unknown)}: give numbers of epochs "
            f"({' or '.join(sorted(groups))}) or names ({', '.join(models)})"
        )
    return [
        model
        for model in models.values()
        if not wanted or model.config in wanted or str(model.schedule) in wanted
    ]


def plot_published(
    out_png: str | os.PathLike[str],
    models: Sequence[PublishedCurves],
    *,
    metric: str = "AP",
    runs: Mapping[str, str | os.PathLike[str]] | None = None,
    iterations_per_epoch: Mapping[str, int] | None = None,
    bad: BadFiles | None = None,
) -> Path:
    """Draw published models by epoch, in a panel for each schedule, and own runs over them.

    A variant has a colour; what has no SMCA is dashed. Runs have the colours that are left.

    Args:
        out_png: file to write.
        models: at least one.
        metric: one of ``METRICS``.
        runs: folders (or ``metrics.json`` files) by the label that each shall have. They are drawn
            in every panel, as far as it goes; the last one goes as far as they do.
        iterations_per_epoch: for runs, by label, that have not logged ``epoch``.
        bad: gets runs that can't be used, and the others are drawn; without it, the first of them
            is an error.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if a run has no metrics.
        MetricsError: if a run has not logged this AP, or can't be placed on the axis; with ``bad``
            if that holds for every run.
        ValueError: if there is no model, or no such metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    steps, colors = iterations_per_epoch or {}, SERIES_COLORS[: len(_VARIANTS) - 1 : -1]
    own: list[tuple[NDArray[np.float64], NDArray[np.float64], dict[str, Any]]] = []
    for index, (label, path) in enumerate((runs or {}).items()):
        dash = "-" if index < len(colors) else ":"
        look: dict[str, Any] = dict(
            color=colors[index % len(colors)], linestyle=dash, linewidth=2.4, label=label
        )
        with (bad or BadFiles()).skipping(path):
            own.append((*read_by_epoch(path, f"bbox/{metric}", steps.get(label)), look))
    if bad is not None and runs and not own:
        raise MetricsError(listing(bad.reasons.values(), separator="; "))
    schedules = sorted({model.schedule for model in models})
    panels = {}
    for schedule in schedules:
        lines = [
            Line2D(
                model.epochs,
                model.values[metric],
                label=model.label,
                color=SERIES_COLORS[_VARIANTS.index(model.variant)],
                linestyle="-" if model.smca else "--",
            )
            for model in models
            if model.schedule == schedule
        ]
        for epochs, values, look in own:
            # Half an epoch later is not later: what follows the last step is logged as a further
            # one.
            shown = epochs < (np.inf if schedule == schedules[-1] else schedule + 0.5)
            if shown.any():
                lines.append(Line2D(epochs[shown], values[shown], **look))
        panels[f"{schedule} epochs"] = lines
    # Runs may have been evaluated on anything.
    images = "" if own else " on COCO val2017"
    return plot_by_epoch(panels, out_png, y_label=f"box {metric}{images}, in %")


def published_table() -> str:
    """Return the README's table: what the logs end with, and our counts of parameters."""
    rows = []
    for model in read_published().values():
        built, _ = build_without_weights(f"sam_detr/{model.config}.py", PUBLISHED_NUM_CLASSES)
        count = count_parameters(built)
        rows.append(
            [
                f"[{model.config}](configs/{model.config}.py)",
                str(model.schedule),
                *(f"{model.values[metric][-1]:.1f}" for metric in METRICS),
                f"{count.total:,} ({count.trained:,})",
            ]
        )
    return format_table(rows, ["config", "epochs", *METRICS, "parameters"], "github")
