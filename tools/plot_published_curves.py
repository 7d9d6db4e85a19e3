#!/usr/bin/env python
"""Draw the AP of the published SAM-DETR models after every epoch, and own runs over it.

plot_published_curves.py --out published.png
plot_published_curves.py output/mine --models sam_detr_r50_12ep sam_detr_r50_smca_12ep
plot_published_curves.py output/mine --models 12 --metric APs --labels "smaller batch"
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from plot_curves import add_run_arguments, named_runs

from sap_detr.projects.sam_detr.training_curves import (
    METRICS,
    plot_published,
    published_table,
    select_published,
)
from sap_detr.visualization import MetricsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one message for what can't be done."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.table:
        print(published_table())
        return 0
    runs, steps = named_runs(parser, args)
    try:
        out = plot_published(
            args.out,
            select_published(args.models),
            metric=args.metric,
            runs=runs,
            iterations_per_epoch=steps,
        )
    except (MetricsError, OSError, ValueError) as error:
        print(f"plot_published_curves: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plot_published_curves.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
