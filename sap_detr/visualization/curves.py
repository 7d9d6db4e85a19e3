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
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from ..bad_files import BadFiles
from ..engine.metrics_file import METRICS_FILE
from ..text import listing
from .palette import SERIES_COLORS

logger = logging.getLogger(__name__)

XAxis = Literal["iteration", "epoch", "minutes"]

_X_LABELS: dict[str, str] = {
    "iteration": "iteration",
    "epoch": "epoch",
    "minutes": "minutes of training, without evaluation",
}
_MUTED = "#666666"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": _MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
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
    """Read what Detectron2's ``JSONWriter`` wrote: one JSON object per line.

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
    points: dict[str, dict[int, float]] = {}
    unreadable = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            iteration = int(record.pop("iteration"))
        except (ValueError, TypeError, AttributeError, KeyError):
            unreadable.append(number)
            continue
        for key, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                series = points.setdefault(key, {})
                while series and next(reversed(series)) >= iteration:
                    series.popitem()
                series[iteration] = float(value)
    if not points:
        raise MetricsError(
            f"{file} holds no metrics: none of its {len(lines)} lines is a JSON object with an "
            "iteration and a number. If the run has just started, wait until it has logged"
        )
    if inner := [number for number in unreadable if number != len(lines)]:
        logger.warning("%s: left out lines that can't be read: %s", file, inner)
    return {
        key: Curve(np.array([*series], np.int64), np.array([*series.values()], np.float64))
        for key, series in points.items()
    }


def last_layer_losses(metrics: Mapping[str, Curve]) -> list[str]:
    """Return the last decoder layer's loss terms: ``loss_class`` but not ``loss_class_0``.

    Those of proposals and of denoising queries are left out: a picture has room for one set.
    """
    return [key for key in metrics if re.fullmatch(r"loss_(?!proposal_|dn_)(?!.*_\d+$).+", key)]


def read_by_epoch(
    path: str | os.PathLike[str], key: str, iterations_per_epoch: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read a quantity of a run, such as ``bbox/AP``.

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
    run = _Run(str(path), read_metrics(path), "", "-", "epoch", iterations_per_epoch)
    curve = run.finite(key)
    if curve is None:
        raise MetricsError(
            f"the run {str(path)!r} has no {key}: it was not evaluated yet, or not for that"
        )
    return run.places(curve.iterations), curve.values


def plot_curves(
    runs: Mapping[str, str | os.PathLike[str]],
    out_png: str | os.PathLike[str],
    *,
    x: XAxis = "iteration",
    iterations_per_epoch: int | Mapping[str, int] | None = None,
    dpi: int = 160,
    bad: BadFiles | None = None,
) -> Path:
    """Draw the losses and APs of runs into one picture.

    Args:
        runs: the folders (or ``metrics.json`` files) by the label that each shall have.
        out_png: file to write; its ending may also be that of another format, such as ``.pdf``.
        x: what the horizontal axis counts. "minutes" adds up the logged seconds per iteration, so
            that they are those of training alone.
        iterations_per_epoch: needed for ``x="epoch"``: one number for all runs or one for each
            label. Without it the runs must have logged ``epoch``.
        dpi: pixels per inch; the picture is 10 inches wide.
        bad: gets runs that can't be used, and the others are drawn; without it, the first of them
            is an error.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if a run has no metrics.
        MetricsError: if metrics can't be read, or lack what ``x`` needs, or no run can be used.
        ValueError: if there are no runs or ``x`` is unknown.
    """
    if not runs:
        raise ValueError("there are no runs to plot")
    if x not in _X_LABELS:
        raise ValueError(f"x must be one of {', '.join(_X_LABELS)}, got {x!r}")
    drawn = []
    for index, (label, path) in enumerate(runs.items()):
        steps = iterations_per_epoch
        steps = steps.get(label) if isinstance(steps, Mapping) else steps
        color = SERIES_COLORS[index % len(SERIES_COLORS)]
        dash = ("-", "--", ":")[index // len(SERIES_COLORS) % 3]
        with (bad or BadFiles()).skipping(path):
            run = _Run(label, read_metrics(path), color, dash, x, steps)
            run.places(np.zeros(0, np.int64))  # fails now if there is nothing to place it by
            drawn.append(run)
    if bad is not None and not drawn:
        raise MetricsError(listing(bad.reasons.values(), separator="; "))
    terms = sorted({term for run in drawn for term in last_layer_losses(run.metrics)})
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 6.2 if terms else 3.8), layout="constrained")
        # In one grid the legends of the narrow panels would make the wide ones narrow too.
        rows = (["total_loss", "AP"], terms)[: 2 if terms else 1]
        parts = figure.subfigures(len(rows), 1, height_ratios=[1.35, 1][: len(rows)], squeeze=False)
        panels: dict[str, Axes] = {}
        for part, row in zip(parts[:, 0], rows, strict=True):
            panels |= part.subplot_mosaic([row])
        for name, axes in panels.items():
            if name == "AP":
                _draw_ap(axes, drawn)
            else:
                _draw_losses(axes, name, drawn)
            axes.xaxis.set_major_locator(MaxNLocator(3 if name in terms else 5))
            if x == "iteration":
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            if name in terms or not terms:
                axes.set_xlabel(_X_LABELS[x])
        # The same span everywhere, so that one can look from the loss up to the AP.
        highest = max((axes.dataLim.x1 for axes in panels.values() if axes.has_data()), default=0)
        for axes in panels.values():
            axes.set_xlim(0, highest if highest > 0 else 1)
        handles = [Line2D([], [], label=r.label, color=r.color, linestyle=r.dash) for r in drawn]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(len(drawn), 4))
        return _save(figure, out_png, dpi)


def plot_by_epoch(
    panels: Mapping[str, Sequence[Line2D]],
    out_png: str | os.PathLike[str],
    *,
    y_label: str,
    dpi: int = 160,
) -> Path:
    """Draw curves over epochs, in panels side by side with the same vertical axis.

    Every curve is named, with its last value, to the right of its panel, the highest first.

    Args:
        panels: title to curves, at least one: matplotlib's lines with epochs, finite values, a
            label and how they are to look.
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
    values = np.concatenate([_values(line) for lines in panels.values() for line in lines])
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5 * len(panels), 4.8), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        row[0].set_ylabel(y_label)
        row[0].set_ylim(5 * math.floor(values.min() / 5), 5 * math.ceil((values.max() + 1) / 5))
        for axes, (title, lines) in zip(row, panels.items(), strict=True):
            axes.set_title(title)
            axes.set_xlabel(_X_LABELS["epoch"])
            axes.set_xlim(0, max(np.asarray(line.get_xdata())[-1] for line in lines))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            for line in lines:
                line.set(marker=_marker(_values(line)), markersize=3.2, clip_on=False)
                axes.add_line(line)
            _name_ends(
                axes, [(line, f"{line.get_label()} {_values(line)[-1]:.1f}") for line in lines]
            )
        return _save(figure, out_png, dpi)


@dataclass(frozen=True)
class _Run:
    """A run, and how it is drawn.

    Attributes:
        label: what it is called.
        metrics: its curves by name.
        color, dash: matplotlib's.
        x: what the horizontal axis counts.
        steps: iterations per epoch; None to take epochs from the metrics.
    """

    label: str
    metrics: Mapping[str, Curve]
    color: str
    dash: Any
    x: XAxis
    steps: int | None

    def finite(self, key: str) -> Curve | None:
        """Return the finite part of a curve; None if there is no such value."""
        curve = self.metrics[key].finite if key in self.metrics else None
        return curve if curve is not None and len(curve.values) else None

    def places(self, iterations: NDArray[np.int64]) -> NDArray[np.float64]:
        """Map logged iterations (n,) to places on the horizontal axis (n,).

        Between known places, and after the last, they are interpolated.
        """
        # Iteration 0 is logged when the first is completed.
        done = iterations.astype(np.float64) + 1
        if self.x == "iteration":
            return done
        if self.x == "epoch" and self.steps is not None:
            if self.steps < 1:
                raise ValueError(
                    f"iterations_per_epoch must be positive, got {self.steps} for {self.label!r}"
                )
            return np.asarray(done / self.steps)
        key = "epoch" if self.x == "epoch" else "time"
        known = self.finite(key)
        if known is None:
            remedy = ": give iterations_per_epoch" if self.x == "epoch" else ""
            raise MetricsError(
                f"the run {self.label!r} has not logged {key!r}, which x={self.x!r} needs{remedy}"
            )
        steps = np.append(0.0, known.iterations + 1.0)
        places = np.append(0.0, known.values)
        if key == "time":
            places[1:] = np.cumsum(np.diff(steps) * known.values) / 60
        # An evaluation may follow the last known place.
        beyond: NDArray[np.float64] = places[-1] / steps[-1] * np.maximum(done - steps[-1], 0)
        beyond += np.interp(done, steps, places)
        return beyond


def _draw_losses(axes: Axes, key: str, runs: Sequence[_Run]) -> None:
    """Draw one loss: what was logged as a faint line, its running mean as a strong one."""
    axes.set_title(key.replace("total_loss", "Total loss"))
    ends, finite = [], []
    for run in runs:
        known = run.finite(key)
        if known is None:
            continue
        curve = run.metrics[key]
        places, smooth = run.places(curve.iterations), _running_mean(curve.values)
        axes.plot(places, curve.values, color=run.color, linewidth=0.8, alpha=0.3)
        (line,) = axes.plot(places, smooth, color=run.color, linestyle=run.dash, linewidth=1.8)
        last = np.flatnonzero(np.isfinite(curve.values))[-1]
        finite.append(known.values)
        text = np.format_float_positional(smooth[last], precision=3, fractional=False, trim="-")
        if last < len(places) - 1:
            axes.plot(places[last], smooth[last], "x", color=run.color, markeredgewidth=2)
            text = "not finite"
        ends.append((line, text))
    if not ends:
        _write(axes, "not logged yet")
        return
    # The first steps' outliers don't decide.
    low = min(float(values.min()) for values in finite)
    high = max(float(np.quantile(values, 0.995)) for values in finite)
    margin = 0.06 * (high - low or abs(high) or 1.0)
    axes.set_ylim(0.0 if 0 <= low < 0.5 * high else low - margin, high + margin)
    _name_ends(axes, ends, handlelength=0)  # the panels are narrow


def _draw_ap(axes: Axes, runs: Sequence[_Run]) -> None:
    """Draw AP as a strong line, AP50 as a thin dashed one."""
    axes.set_title("Box AP on the validation set, in %")
    ends, highest = [], 0.0
    for run in runs:
        for key, dash, width in (("bbox/AP", run.dash, 1.8), ("bbox/AP50", "--", 1.1)):
            curve = run.finite(key)
            if curve is None:
                continue
            (line,) = axes.plot(
                run.places(curve.iterations),
                curve.values,
                color=run.color,
                linestyle=dash,
                linewidth=width,
                marker=_marker(curve.values),
                markersize=3.2,
                clip_on=False,
            )
            highest = max(highest, float(curve.values.max()))
            ends.append((line, f"{key.removeprefix('bbox/')} {curve.values[-1]:.1f}"))
    axes.set_ylim(0, max(1.0, min(100.0, 1.08 * highest)) if ends else 100)
    if ends:
        _name_ends(axes, ends)
    else:
        _write(axes, "not evaluated yet")


def _marker(values: NDArray[np.float64]) -> str:
    """Return the marker of a curve's points, which are shown where they are few."""
    return "o" if len(values) < 40 else ""


def _values(line: Line2D) -> NDArray[np.float64]:
    return np.asarray(line.get_ydata(), np.float64)


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred mean over a fiftieth of the curve, over finite values; others are NaN."""
    finite = np.isfinite(values)
    window = np.ones(2 * (len(values) // 100) + 1)
    sums = np.convolve(np.where(finite, values, 0.0), window, "same")
    counts = np.convolve(finite, window, "same")
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def _name_ends(axes: Axes, ends: Sequence[tuple[Line2D, str]], handlelength: float = 1.8) -> None:
    """Write to the right of the panel what the curves end with, the highest first."""

    def height(end: tuple[Line2D, str]) -> float:
        values = _values(end[0])
        return float(values[np.isfinite(values)][-1])

    lines, texts = zip(*sorted(ends, key=height, reverse=True), strict=True)
    axes.legend(
        lines,
        texts,
        loc="upper left",
        bbox_to_anchor=(1, 1),
        labelcolor="linecolor",
        fontsize=8,
        handlelength=handlelength,
        handletextpad=handlelength / 2,
    )


def _write(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_MUTED)
    axes.set_yticks([])


def _save(figure: Figure, path: str | os.PathLike[str], dpi: int) -> Path:
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=dpi, facecolor="white")
    return out
