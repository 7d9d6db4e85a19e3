#!/usr/bin/env python
"""Draw the AP of the published SAM-DETR models after every epoch, and own runs over it.

plot_published_curves.py --out published.png
plot_published_curves.py output/mine --models sam_detr_r50_12ep sam_detr_r50_smca_12ep
plot_published_curves.py output/mine --models 12 --metric APs --labels "smaller batch"

Runs that can't be used are left out, counted and listed at the end. The exit status is 0 if all
were drawn, 1 if some were, 2 if none was or if what is asked for can't be done.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from plot_curves import add_run_arguments, bad_runs, named_runs, print_result

from sap_detr.arguments import ArgumentParser
from sap_detr.projects.sam_detr.training_curves import (
    METRICS,
    plot_published,
    published_table,
    select_published,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status, after one line for what can't be done."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.table:
        print(published_table())
        return 0
    runs, steps = named_runs(parser, args)
    bad = bad_runs(args)
    try:
        out = plot_published(
            args.out,
            select_published(args.models),
            metric=args.metric,
            runs=runs,
            iterations_per_epoch=steps,
            bad=bad,
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return print_result(out, bad)


def _parser() -> ArgumentParser:
    parser = ArgumentParser("plot_published_curves.py", __doc__)
    add_run_arguments(parser, nargs="*", needs_steps="for runs that have not logged their epochs")
    parser.add_argument(
        "--models",
        metavar="MODEL",
        nargs="+",
        default=[],
        help="published models, by the names of their configs, or 12 or 50 for those of as many "
        "epochs (default: all)",
    )
    parser.add_argument(
        "--metric", choices=METRICS, default="AP", help="what to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("published_curves.png"),
        help="file to write (default: %(default)s)",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="print the last values of all published models as a table instead",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
