"""Loss and AP over the course of one or several training runs."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
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
# The colours first, then the same with other dashes.
_LOOKS = cycler(linestyle=["-", "--", ":"]) * cycler(color=SERIES_COLORS)
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
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}


# Places on the horizontal axis (n,) and values (n,).
Points = tuple[NDArray[np.float64], NDArray[np.float64]]
# The curves of a run by name, and matplotlib's properties of its lines.
Run = tuple[Mapping[str, Points], dict[str, Any]]

_NOTHING: Points = np.zeros(0), np.zeros(0)


class MetricsError(ValueError):
    """A file of metrics can't be used; the message names it and says why."""


class Curve(NamedTuple):
    """One quantity over the course of a run.

    Attributes:
        iterations: (n,), ascending, without repetition.
        values: (n,), which may be NaN or infinite.
    """

    iterations: NDArray[np.int64]
    values: NDArray[np.float64]


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


def last_layer_losses(metrics: Iterable[str]) -> list[str]:
    """Return the last decoder layer's loss terms: ``loss_class`` but not ``loss_class_0``.

    Those of proposals and of denoising queries are left out: a picture has room for one set.
    """
    return [key for key in metrics if re.fullmatch(r"loss_(?!proposal_|dn_)(?!.*_\d+$).+", key)]


def read_by_epoch(
    path: str | os.PathLike[str], key: str, iterations_per_epoch: int | None = None
) -> Points:
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
    curves = _placed(str(path), read_metrics(path), "epoch", iterations_per_epoch)
    epochs, values = _finite(curves, key)
    if not len(values):
        raise MetricsError(
            f"the run {str(path)!r} has no {key}: it was not evaluated yet, or not for that"
        )
    return epochs, values


def _placed(
    label: str, metrics: Mapping[str, Curve], x: XAxis, iterations_per_epoch: int | None
) -> dict[str, Points]:
    """Return the curves of a run over what the horizontal axis counts.

    Between known places, and after the last, they are interpolated.
    """
    done, places = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    if x == "epoch" and iterations_per_epoch is not None:
        if iterations_per_epoch < 1:
            raise ValueError(
                f"iterations_per_epoch must be positive, got {iterations_per_epoch} for {label!r}"
            )
        done[1] = iterations_per_epoch
    elif x != "iteration":
        key = "epoch" if x == "epoch" else "time"
        iterations, values = _finite(metrics, key)
        if not len(values):
            remedy = ": give iterations_per_epoch" if x == "epoch" else ""
            raise MetricsError(
                f"the run {label!r} has not logged {key!r}, which x={x!r} needs{remedy}"
            )
        done, places = np.append(0.0, iterations + 1.0), np.append(0.0, values)
        if key == "time":
            places[1:] = np.cumsum(np.diff(done) * places[1:]) / 60

    def place(iterations: NDArray[np.int64]) -> NDArray[np.float64]:
        now = iterations + 1.0  # iteration 0 is logged when the first is completed
        # An evaluation may follow the last known place.
        beyond = places[-1] / done[-1] * np.maximum(now - done[-1], 0)
        placed: NDArray[np.float64] = np.interp(now, done, places) + beyond
        return placed

    return {key: (place(curve.iterations), curve.values) for key, curve in metrics.items()}


def _finite(curves: Mapping[str, tuple[NDArray[Any], NDArray[np.float64]]], key: str) -> Points:
    """Return what of a curve is finite; nothing where there is no such curve."""
    places, values = curves.get(key, _NOTHING)
    keep = np.isfinite(values)
    return places[keep], values[keep]


def plot_curves(
    runs: Mapping[str, str | os.PathLike[str]],
    out_png: str | os.PathLike[str],
    *,
    x: XAxis = "iteration",
    iterations_per_epoch: int | Mapping[str, int] | None = None,
    bad: BadFiles | None = None,
) -> Path:
    """Draw the losses and APs of runs into one picture, 10 inches wide.

    Args:
        runs: the folders (or ``metrics.json`` files) by the label that each shall have.
        out_png: file to write; its ending may also be that of another format, such as ``.pdf``.
        x: what the horizontal axis counts. "minutes" adds up the logged seconds per iteration, so
            that they are those of training alone.
        iterations_per_epoch: needed for ``x="epoch"``: one number for all runs or one for each
            label. Without it the runs must have logged ``epoch``.
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
    drawn: list[Run] = []
    for (label, path), look in zip(runs.items(), _LOOKS(), strict=False):
        steps = iterations_per_epoch
        steps = steps.get(label) if isinstance(steps, Mapping) else steps
        with (bad or BadFiles()).skipping(path):
            drawn.append((_placed(label, read_metrics(path), x, steps), {**look, "label": label}))
    if bad is not None and not drawn:
        raise MetricsError(listing(bad.reasons.values(), separator="; "))
    terms = sorted({term for curves, _ in drawn for term in last_layer_losses(curves)})
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
        handles = [Line2D([], [], **look) for _, look in drawn]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(len(drawn), 4))
        return _save(figure, out_png)


def plot_by_epoch(
    panels: Mapping[str, Sequence[Line2D]], out_png: str | os.PathLike[str], *, y_label: str
) -> Path:
    """Draw curves over epochs, in panels side by side with the same vertical axis.

    Every curve is named, with its last value, to the right of its panel, the highest first.

    Args:
        panels: title to curves, at least one: matplotlib's lines with epochs, finite values, a
            label and how they are to look.
        out_png: file to write; its ending may also be that of another format, such as ``.pdf``.
        y_label: what the values are.

    Returns:
        The file.

    Raises:
        ValueError: if there is no panel, or one without curves.
    """
    if not panels or not all(panels.values()):
        raise ValueError("every panel needs a curve, and there must be a panel")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5 * len(panels), 4.8), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        row[0].set_ylabel(y_label)
        for axes, (title, lines) in zip(row, panels.items(), strict=True):
            axes.set_title(title)
            axes.set_xlabel(_X_LABELS["epoch"])
            _draw_evaluated(axes, lines)
            axes.set_xlim(0, axes.dataLim.x1)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        lowest, highest = min(a.dataLim.y0 for a in row), max(a.dataLim.y1 for a in row)
        row[0].set_ylim(5 * math.floor(lowest / 5), 5 * math.ceil((highest + 1) / 5))
        return _save(figure, out_png)


def _draw_losses(axes: Axes, key: str, runs: Sequence[Run]) -> None:
    """Draw one loss: what was logged as a faint line, its running mean as a strong one."""
    axes.set_title(key.replace("total_loss", "Total loss"))
    ends, finite = [], []
    for curves, look in runs:
        places, values = curves.get(key, _NOTHING)
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            continue
        last, smooth = known[-1], _running_mean(values)
        axes.plot(places, values, color=look["color"], linewidth=0.8, alpha=0.3)
        (line,) = axes.plot(places, smooth, linewidth=1.8, **look)
        finite.append(values[known])
        text = np.format_float_positional(smooth[last], precision=3, fractional=False, trim="-")
        if last < len(places) - 1:
            axes.plot(places[last], smooth[last], "x", color=look["color"], markeredgewidth=2)
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


def _draw_ap(axes: Axes, runs: Sequence[Run]) -> None:
    """Draw AP as a strong line, AP50 as a thin dashed one."""
    axes.set_title("Box AP on the validation set, in %")
    lines = []
    for curves, look in runs:
        for name, own in (("AP", {"linewidth": 1.8}), ("AP50", {"linestyle": "--"})):
            places, values = _finite(curves, f"bbox/{name}")
            if len(values):
                own = {"linewidth": 1.1, **look, **own, "label": name}
                lines.append(Line2D(places, values, **own))
    if not lines:
        axes.set_ylim(0, 100)
        _write(axes, "not evaluated yet")
        return
    _draw_evaluated(axes, lines)
    axes.set_ylim(0, max(1.0, min(100.0, 1.08 * axes.dataLim.y1)))


def _draw_evaluated(axes: Axes, lines: Sequence[Line2D]) -> None:
    """Draw what was computed now and then, with its points where they are few, and name it."""
    for line in lines:
        marker = "o" if np.size(line.get_ydata()) < 40 else ""
        line.set(marker=marker, markersize=3.2, clip_on=False)
        axes.add_line(line)
    _name_ends(axes, [(line, f"{line.get_label()} {_last(line):.1f}") for line in lines])


def _last(line: Line2D) -> float:
    """Return the last finite value of a line."""
    values = np.asarray(line.get_ydata(), np.float64)
    return float(values[np.isfinite(values)][-1])


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred mean over a fiftieth of the curve, over finite values; others are NaN."""
    finite = np.isfinite(values)
    window = np.ones(2 * (len(values) // 100) + 1)
    sums = np.convolve(np.where(finite, values, 0.0), window, "same")
    counts = np.convolve(finite, window, "same")
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def _name_ends(axes: Axes, ends: Sequence[tuple[Line2D, str]], handlelength: float = 1.8) -> None:
    """Write to the right of the panel what the curves end with, the highest first."""
    lines, texts = zip(*sorted(ends, key=lambda end: _last(end[0]), reverse=True), strict=True)
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


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out
