"""Loss and AP over the course of one or several training runs."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from .palette import SERIES_COLORS

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"

XAxis = Literal["iteration", "epoch", "minutes"]

_X_LABELS: dict[str, str] = {
    "iteration": "iteration",
    "epoch": "epoch",
    "minutes": "minutes of training, without evaluation",
}
_INK, _MUTED, _GRID = "#222222", "#666666", "#E6E6E6"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": _MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}


class MetricsError(ValueError):
    """A file of metrics can't be used; the message names it and says why."""


@dataclass(frozen=True)
class Curve:
    """One quantity over the course of a run.

    Attributes:
        iterations: (n,), ascending, without repetition.
        values: (n,), which may be NaN or infinite.
    """

    iterations: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def finite(self) -> Curve:
        """The part whose values are finite."""
        keep = np.isfinite(self.values)
        return Curve(self.iterations[keep], self.values[keep])


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Curve]:
    """Reads what Detectron2's ``JSONWriter`` wrote: one JSON object per line.

    A run that was resumed goes over some iterations again: from where it does, what was written
    before is dropped, for each quantity on its own. Lines that are not complete (the last one, if
    the run is going on or was killed) are left out.

    Args:
        path: the file, or the run's folder, in which it is called ``metrics.json``.

    Returns:
        The curve of every number in the file, such as ``total_loss``, ``loss_class_0`` or
        ``bbox/AP``.

    Raises:
        FileNotFoundError: if there is no such file.
        MetricsError: if no line of it can be read.
    """
    file = Path(path)
    if file.is_dir():
        file = file / METRICS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"there are no metrics at {file}: give a run's output folder or its {METRICS_FILE}"
        )
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    points: dict[str, list[tuple[int, float]]] = {}
    unreadable = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _parse(line)
        if record is None:
            unreadable.append(number)
            continue
        iteration = int(record.pop("iteration"))
        for key, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                series = points.setdefault(key, [])
                while series and series[-1][0] >= iteration:
                    series.pop()
                series.append((iteration, float(value)))
    if not points:
        raise MetricsError(
            f"{file} holds no metrics: none of its {len(lines)} lines is a JSON object with an "
            "iteration and a number. If the run has just started, wait until it has logged"
        )
    if inner := [number for number in unreadable if number != len(lines)]:
        logger.warning("%s: left out lines that can't be read: %s", file, inner)
    return {
        key: Curve(np.array([i for i, _ in s], np.int64), np.array([v for _, v in s], np.float64))
        for key, s in points.items()
    }


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("iteration"), int | float):
        return None
    return record


def last_layer_losses(metrics: Mapping[str, Curve]) -> list[str]:
    """Names of the last decoder layer's loss terms: ``loss_class`` but not ``loss_class_0``."""
    return [key for key in metrics if re.fullmatch(r"loss_(?!.*_\d+$).+", key)]


def plot_curves(
    runs: Mapping[str, str | os.PathLike[str]],
    out_png: str | os.PathLike[str],
    *,
    x: XAxis = "iteration",
    iterations_per_epoch: int | Mapping[str, int] | None = None,
    dpi: int = 160,
) -> Path:
    """Draws the losses and APs of runs into one picture.

    Args:
        runs: the folders (or ``metrics.json`` files) by the label that each shall have.
        out_png: file to write; its ending may also be that of another format, such as ``.pdf``.
        x: what the horizontal axis counts. "minutes" adds up the logged seconds per iteration, so
            that they are those of training alone.
        iterations_per_epoch: needed for ``x="epoch"``: one number for all runs or one for each
            label. Without it the runs must have logged ``epoch``.
        dpi: pixels per inch; the picture is 10 inches wide.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if a run has no metrics.
        MetricsError: if metrics can't be read, or lack what ``x`` needs.
        ValueError: if there are no runs or ``x`` is unknown.
    """
    if not runs:
        raise ValueError("there are no runs to plot")
    if x not in _X_LABELS:
        raise ValueError(f"x must be one of {', '.join(_X_LABELS)}, got {x!r}")
    metrics = {label: read_metrics(path) for label, path in runs.items()}
    clocks = {
        label: _clock(curves, x, _steps_of(label, iterations_per_epoch), label)
        for label, curves in metrics.items()
    }
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        figure = _draw(metrics, clocks, _X_LABELS[x])
        figure.savefig(out, dpi=dpi, facecolor="white")
    return out


@dataclass(frozen=True)
class EpochCurve:
    """A quantity over epochs of training, and how it is drawn.

    Attributes:
        label: what the curve is called.
        epochs: (n,), completed epochs, ascending.
        values: (n,), finite.
        color: matplotlib's.
        linestyle: matplotlib's.
        linewidth: in points.
    """

    label: str
    epochs: NDArray[np.float64]
    values: NDArray[np.float64]
    color: str
    linestyle: Any = "-"
    linewidth: float = 1.6


def read_by_epoch(
    path: str | os.PathLike[str], key: str, iterations_per_epoch: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reads a quantity of a run, such as ``bbox/AP``.

    Args:
        path: see :func:`read_metrics`.
        key: name of the quantity.
        iterations_per_epoch: needed where the run has not logged ``epoch``.

    Returns:
        Completed epochs (n,) and finite values (n,), with n of at least 1.

    Raises:
        FileNotFoundError: if there are no metrics.
        MetricsError: if they can't be read, have no finite value of this quantity, or don't tell
            epochs.
    """
    metrics = read_metrics(path)
    curve = metrics[key].finite if key in metrics else None
    if curve is None or not len(curve.values):
        raise MetricsError(
            f"the run {str(path)!r} has no {key}: it was not evaluated yet, or not for that"
        )
    return _clock(metrics, "epoch", iterations_per_epoch, str(path))(curve.iterations), curve.values


def plot_by_epoch(
    panels: Mapping[str, Sequence[EpochCurve]],
    out_png: str | os.PathLike[str],
    *,
    y_label: str,
    dpi: int = 160,
) -> Path:
    """Draws curves over epochs, in panels side by side with the same vertical axis.

    Every curve is named, with its last value, to the right of its panel.

    Args:
        panels: title to curves, at least one.
        out_png: file to write; its ending may also be that of another format, such as ``.pdf``.
        y_label: what the values are.
        dpi: pixels per inch; a panel is 5 inches wide.

    Returns:
        The file.

    Raises:
        ValueError: if there is no panel, or one without curves.
    """
    if not panels or not all(panels.values()):
        raise ValueError("every panel needs a curve, and there must be a panel")
    out = Path(out_png)
    out.parent.mkdir(parents=True, exist_ok=True)
    values = np.concatenate([curve.values for curves in panels.values() for curve in curves])
    bottom, top = 5 * math.floor(values.min() / 5), 5 * math.ceil((values.max() + 1) / 5)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(
            figsize=(5 * len(panels), 4.8),
            layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.02),
        )
        FigureCanvasAgg(figure)
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        row[0].set_ylabel(y_label)
        for axes, title in zip(row, panels, strict=True):
            axes.set_ylim(bottom, top)
            axes.set_title(title)
            axes.set_xlabel(_X_LABELS["epoch"])
        # Gives the panels the height that their labels need to know.
        figure.draw_without_rendering()
        for axes, curves in zip(row, panels.values(), strict=True):
            _epoch_panel(axes, curves)
        figure.savefig(out, dpi=dpi, facecolor="white")
    return out


@dataclass(frozen=True)
class _Clock:
    """Maps logged iterations to places on the horizontal axis, linearly between known ones.

    Attributes:
        steps: (n,), numbers of completed iterations, ascending.
        places: (n,).
    """

    steps: NDArray[np.float64]
    places: NDArray[np.float64]

    def __call__(self, iterations: NDArray[np.int64]) -> NDArray[np.float64]:
        steps = iterations + 1.0  # iteration 0 is logged when the first is completed
        slope = (self.places[-1] - self.places[0]) / (self.steps[-1] - self.steps[0])
        inside = np.interp(steps, self.steps, self.places)
        # An evaluation may follow the last known place.
        return inside + slope * np.maximum(steps - self.steps[-1], 0)


def _steps_of(label: str, steps: int | Mapping[str, int] | None) -> int | None:
    return steps.get(label) if isinstance(steps, Mapping) else steps


def _clock(metrics: Mapping[str, Curve], x: XAxis, steps: int | None, label: str) -> _Clock:
    if x == "iteration":
        return _Clock(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    if x == "epoch" and steps is not None:
        if steps < 1:
            raise ValueError(f"iterations_per_epoch must be positive, got {steps} for {label!r}")
        return _Clock(np.array([0.0, steps]), np.array([0.0, 1.0]))
    key = "epoch" if x == "epoch" else "time"
    known = metrics[key].finite if key in metrics else Curve(np.zeros(0, np.int64), np.zeros(0))
    if not len(known.iterations):
        remedy = ": give iterations_per_epoch" if x == "epoch" else ""
        raise MetricsError(f"the run {label!r} has not logged {key!r}, which x={x!r} needs{remedy}")
    done = np.append(0.0, known.iterations + 1.0)
    places = known.values if x == "epoch" else np.cumsum(np.diff(done) * known.values) / 60
    return _Clock(done, np.append(0.0, places))


def _draw(
    metrics: Mapping[str, Mapping[str, Curve]], clocks: Mapping[str, _Clock], x_label: str
) -> Figure:
    terms = list(dict.fromkeys(t for curves in metrics.values() for t in last_layer_losses(curves)))
    terms.sort()
    figure = Figure(
        figsize=(10, 6.2 if terms else 3.8),
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.02, hspace=0.04),
    )
    FigureCanvasAgg(figure)
    parts = figure.subfigures(2 if terms else 1, 1, height_ratios=[1.35, 1] if terms else [1])
    top, *below = np.ravel(np.array(parts, dtype=object))
    left, right = top.subplots(1, 2)

    _loss_panel(left, "Total loss", "total_loss", metrics, clocks)
    _ap_panel(right, metrics, clocks)
    panels = [left, right]
    for bottom in below:
        for axes, term in zip(np.ravel(bottom.subplots(1, len(terms))), terms, strict=True):
            _loss_panel(axes, term, term, metrics, clocks)
            panels.append(axes)
    # The same span everywhere, so that one can look from the loss up to the AP.
    highest = max((axes.dataLim.x1 for axes in panels if axes.has_data()), default=1.0)
    for axes in panels:
        axes.set_xlim(0, highest if highest > 0 else 1)
        axes.xaxis.set_major_locator(MaxNLocator(5 if axes in panels[:2] else 3, integer=False))
        axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
    for axes in panels[2:] or panels:
        axes.set_xlabel(x_label)
    figure.legend(
        handles=[
            Line2D([], [], label=label, linewidth=2.5, **_series(index))
            for index, label in enumerate(metrics)
        ],
        loc="outside upper left",
        ncols=min(len(metrics), 4),
        frameon=False,
        labelcolor=_INK,
    )
    return figure


def _series(index: int) -> dict[str, Any]:
    """Colour of a run; after the last colour they start again with another dash."""
    dash = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)))[index // len(SERIES_COLORS) % 3]
    return {"color": SERIES_COLORS[index % len(SERIES_COLORS)], "linestyle": dash}


def _loss_panel(
    axes: Axes,
    title: str,
    key: str,
    metrics: Mapping[str, Mapping[str, Curve]],
    clocks: Mapping[str, _Clock],
) -> None:
    """One loss: what was logged as a faint line, its running mean as a strong one."""
    axes.set_title(title)
    ends = []
    spans = []
    for index, (label, curves) in enumerate(metrics.items()):
        if key not in curves:
            continue
        style = _series(index)
        curve = curves[key]
        places = clocks[label](curve.iterations)
        smooth = _running_mean(curve.values)
        axes.plot(places, curve.values, color=style["color"], linewidth=0.8, alpha=0.3)
        axes.plot(places, smooth, linewidth=1.8, **style)
        finite = np.flatnonzero(np.isfinite(curve.values))
        if not len(finite):
            continue
        last = finite[-1]
        spans.append(curve.values[finite])
        if last < len(places) - 1:
            axes.plot(places[last], smooth[last], "x", color=style["color"], markeredgewidth=2)
            text = "not finite"
        else:
            text = _three_digits(smooth[last])
        ends.append((places[last], smooth[last], text, style["color"]))
    if spans:
        _fit_height(axes, spans)
        _label_ends(axes, ends)
    else:
        _say(axes, "not logged" if key != "total_loss" else "no training steps yet")


def _ap_panel(
    axes: Axes, metrics: Mapping[str, Mapping[str, Curve]], clocks: Mapping[str, _Clock]
) -> None:
    """AP as a strong line, AP50 as a thin dashed one."""
    axes.set_title("Box AP on the validation set, in %")
    ends = []
    shown: list[float] = []
    for index, (label, curves) in enumerate(metrics.items()):
        style = _series(index)
        for key, name, width in (("bbox/AP", "AP", 1.8), ("bbox/AP50", "AP50", 1.1)):
            curve = curves[key].finite if key in curves else None
            if curve is None or not len(curve.values):
                continue
            dash = style["linestyle"] if name == "AP" else (0, (5, 2))
            places = clocks[label](curve.iterations)
            axes.plot(
                places,
                curve.values,
                color=style["color"],
                linestyle=dash,
                linewidth=width,
                marker="o",
                markersize=_marker_size(places),
                clip_on=False,
            )
            shown += curve.values.tolist()
            text = f"{name} {curve.values[-1]:.1f}"
            ends.append((places[-1], curve.values[-1], text, style["color"]))
    if ends:
        highest = max(shown)
        axes.set_ylim(0, max(1.0, min(100.0, 1.08 * highest)))
        _label_ends(axes, ends)
    else:
        axes.set_ylim(0, 100)
        _say(axes, "not evaluated yet")


def _marker_size(places: NDArray[np.float64]) -> float:
    """Of the points of a curve, which are shown where they are few."""
    return 3.2 if len(places) < 40 else 0.0


def _epoch_panel(axes: Axes, curves: Sequence[EpochCurve]) -> None:
    end = max(curve.epochs[-1] for curve in curves)
    axes.set_xlim(0, end)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for curve in curves:
        axes.plot(
            curve.epochs,
            curve.values,
            color=curve.color,
            linestyle=curve.linestyle,
            linewidth=curve.linewidth,
            marker="o",
            markersize=_marker_size(curve.epochs),
            clip_on=False,
        )
        # Leads from where a shorter curve ends to its name.
        if curve.epochs[-1] < end:
            last = [curve.values[-1]] * 2
            axes.plot([curve.epochs[-1], end], last, ":", color=curve.color, linewidth=0.8)
    names = [f"{curve.label} {curve.values[-1]:.1f}" for curve in curves]
    _label_ends(
        axes,
        [
            (c.epochs[-1], c.values[-1], name, c.color)
            for c, name in zip(curves, names, strict=True)
        ],
    )


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred mean over a fiftieth of the curve, over finite values; NaN stays NaN."""
    half = len(values) // 100
    finite = np.isfinite(values)
    if half == 0:
        return np.where(finite, values, np.nan)
    sums = np.cumsum(np.append(0.0, np.where(finite, values, 0.0)))
    counts = np.cumsum(np.append(0, finite))
    before = np.arange(len(values))
    after = before[::-1]
    # Shorter on both sides near the start, where losses fall steeply; on one side near the end.
    low = before - np.minimum(half, before)
    high = before + np.minimum(half, np.minimum(before, after)) + 1
    count = counts[high] - counts[low]
    mean = (sums[high] - sums[low]) / np.maximum(count, 1)
    return np.where(finite, mean, np.nan)


def _fit_height(axes: Axes, spans: Sequence[NDArray[np.float64]]) -> None:
    """Limits that the first steps' outliers don't decide."""
    low = min(float(values.min()) for values in spans)
    high = max(float(np.quantile(values, 0.995)) for values in spans)
    margin = 0.06 * (high - low or abs(high) or 1.0)
    bottom = 0.0 if 0 <= low < 0.5 * high else low - margin
    axes.set_ylim(bottom, high + margin)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes each curve's last value to the right of the panel, moved apart where they collide.

    Args:
        axes: limits must be final.
        ends: per curve x, y, text and colour.
    """
    bottom, top = axes.get_ylim()
    height = axes.bbox.height / axes.figure.dpi * 72
    gap = 11.0 / height * (top - bottom)
    order = sorted(range(len(ends)), key=lambda i: ends[i][1])
    wanted = [min(max(ends[i][1], bottom), top) for i in order]
    for i, y in zip(order, _spread(wanted, gap), strict=True):
        _, _, text, color = ends[i]
        axes.annotate(
            text,
            (1.0, y),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color,
            annotation_clip=False,
        )


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places at least ``gap`` apart, by least squares near to the wanted ones."""
    # Without the gaps it is isotonic regression: pool neighbours that are out of order.
    pools: list[tuple[float, int]] = []
    for rank, place in enumerate(wanted):
        mean, count = place - rank * gap, 1
        while pools and pools[-1][0] > mean:
            before, size = pools.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        pools.append((mean, count))
    level = [mean for mean, count in pools for _ in range(count)]
    return [mean + rank * gap for rank, mean in enumerate(level)]


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_MUTED)
    axes.set_yticks([])


def _three_digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:.{min(max(decimals, 0), 6)}f}"


def _short_number(value: float, _: Any = None) -> str:
    """3000 as 3k, 1500000 as 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size and math.isfinite(value):
            return f"{value / size:g}{unit}"
    return f"{value:g}"
