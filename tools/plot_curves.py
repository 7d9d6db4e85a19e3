#!/usr/bin/env python
"""Draw the losses and APs of training runs into one picture.

plot_curves.py output/sap_detr output/detr --labels SAP-DETR DETR --out curves.png
plot_curves.py output/sap_detr --x epoch --iterations-per-epoch 7392

Runs that can't be used are left out, counted and listed at the end. The exit status is 0 if all
were drawn, 1 if some were, 2 if none was or if what is asked for can't be done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sap_detr.arguments import ArgumentParser
from sap_detr.bad_files import BadFiles
from sap_detr.visualization import MetricsError, plot_curves


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, after one line for what can't be done."""
    parser = _parser()
    args = parser.parse_args(argv)
    runs, steps = named_runs(parser, args)
    bad = bad_runs(args)
    try:
        out = plot_curves(runs, args.out, x=args.x, iterations_per_epoch=steps, bad=bad)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return print_result(out, bad)


def _parser() -> ArgumentParser:
    parser = ArgumentParser("plot_curves.py", __doc__)
    add_run_arguments(parser, nargs="+", needs_steps="for --x epoch")
    parser.add_argument(
        "--out", type=Path, default=Path("curves.png"), help="file to write (default: %(default)s)"
    )
    parser.add_argument(
        "--x",
        choices=("iteration", "epoch", "minutes"),
        default="iteration",
        help="what the horizontal axis counts (default: %(default)s)",
    )
    return parser


def bad_runs(args: argparse.Namespace) -> BadFiles:
    """Return what takes the runs that can't be used."""
    return BadFiles(MetricsError, FileNotFoundError, stop_at_first=args.stop_at_first_error)


def print_result(out: Path, bad: BadFiles) -> int:
    """Print which file was drawn, and which runs it lacks; return the exit status."""
    print(out)
    if bad.reasons:
        print(bad, file=sys.stderr)
    return bad.exit_status(num_used=1)


def add_run_arguments(parser: argparse.ArgumentParser, nargs: str, needs_steps: str) -> None:
    """Add the arguments that :func:`named_runs` reads.

    Args:
        parser: of a tool that draws runs.
        nargs: how many runs there may be, as argparse has it.
        needs_steps: when ``--iterations-per-epoch`` is needed.
    """
    parser.add_argument(
        "runs", metavar="RUN", nargs=nargs, type=Path, help="output folder, or its metrics.json"
    )
    parser.add_argument(
        "--labels", nargs="+", default=[], help="what to call the runs (default: their folders)"
    )
    parser.add_argument(
        "--iterations-per-epoch",
        metavar="N",
        nargs="+",
        type=int,
        default=[],
        help=f"{needs_steps}: one number, or one for each run",
    )
    parser.add_argument(
        "--stop-at-first-error",
        action="store_true",
        help="end at the first run that can't be used, without a picture",
    )


def named_runs(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> tuple[dict[str, Path], dict[str, int] | None]:
    """Return the runs by label, and their iterations per epoch by label, or None if none are given.

    Ends the program where labels or numbers don't fit the runs.
    """
    labels = args.labels or _default_labels(args.runs)
    if len(labels) != len(args.runs):
        parser.error(f"{len(args.runs)} runs need as many --labels, got {len(labels)}")
    if len(set(labels)) != len(labels):
        parser.error(f"--labels must differ from each other, got {' '.join(labels)}")
    steps = args.iterations_per_epoch
    if len(steps) not in (0, 1, len(labels)):
        parser.error(f"give --iterations-per-epoch once or for each of the {len(labels)} runs")
    if len(steps) == 1:
        steps = steps * len(labels)
    runs = dict(zip(labels, args.runs, strict=True))
    return runs, dict(zip(labels, steps, strict=True)) if steps else None


def _default_labels(runs: Sequence[Path]) -> list[str]:
    """Return the runs' folder names, or whole paths where names are the same."""
    folders = [run.parent if run.suffix == ".json" else run for run in runs]
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


if __name__ == "__main__":
    sys.exit(main())
