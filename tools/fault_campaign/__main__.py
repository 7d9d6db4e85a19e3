"""Break trainings on this machine on purpose, and say whether anything was lost.

In the root of a checkout, `python -m tools.fault_campaign` followed by:

kill --kills 50                  killed at random moments, resumed, compared
kill --kills 50 --processes 2    the same with two training processes
signals --count 100              stopped by signals at random moments, resumed, compared
damage --damages 20              damaged checkpoints must never be loaded
disk                             the disk runs full
soak --iterations 2000           memory must not grow
all --work /shared/disk/here     all of these, on the disk to be tested

Runs on the CPU; Linux only. A small training on generated images is used unless --config-file and
changes say which one. The exit status is 0 if nothing was lost, 1 if something was.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .damage import damage_campaign
from .disk import full_disk_campaign
from .kills import kill_campaign
from .signals import signal_campaign
from .soak import soak
from .training import CampaignError, TrainingCommand, tiny_overrides

CONFIG = "detr/detr_small_shapes.py"
# Memory that allocators may take or give back at any time.
MAX_GROWTH_MIB = 4.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if something was lost, 2 if a campaign can't be run."""
    args = _parser().parse_args(argv)
    if args.work.is_dir() and any(args.work.iterdir()):
        print(f"fault_campaign: {args.work} is not empty; choose another --work", file=sys.stderr)
        return 2
    args.work.mkdir(parents=True, exist_ok=True)
    # Soaking comes last: a process that has trained itself must not start others by forking.
    modes = list(RUN) if args.mode == "all" else [args.mode]
    lost = False
    try:
        for mode in modes:
            report, problems = RUN[mode](args)
            print(f"{mode}: {report}", flush=True)
            lost = lost or problems
    except CampaignError as error:
        print(f"fault_campaign: {error}", file=sys.stderr)
        return 2
    if not lost and not args.keep:
        shutil.rmtree(args.work, ignore_errors=True)
    return int(lost)


def _command(args: argparse.Namespace) -> TrainingCommand:
    own = args.opts if args.config_file else [*_tiny(args), *args.opts]
    return TrainingCommand(args.config_file or CONFIG, tuple(own), args.processes)


def _tiny(args: argparse.Namespace) -> tuple[str, ...]:
    return tiny_overrides(args.work / "images")


def _kill(args: argparse.Namespace) -> tuple[str, bool]:
    report = kill_campaign(_command(args), args.work / "kill", args.kills, args.seed)
    return str(report), bool(report.problems)


def _signals(args: argparse.Namespace) -> tuple[str, bool]:
    report = signal_campaign(_command(args), args.work / "signals", args.count, args.seed)
    return str(report), bool(report.problems)


def _damage(args: argparse.Namespace) -> tuple[str, bool]:
    report = damage_campaign(_command(args), args.work / "damage", args.damages, args.seed)
    return str(report), bool(report.problems)


def _disk(args: argparse.Namespace) -> tuple[str, bool]:
    report = full_disk_campaign(_command(args), args.work / "disk")
    return str(report), bool(report.problems)


def _soak(args: argparse.Namespace) -> tuple[str, bool]:
    overrides = (
        *([] if args.config_file else _tiny(args)),
        f"train.max_iter={args.iterations}",
        f"train.checkpointer.period={max(args.iterations // 10, 1)}",
        "train.eval_period=0",
        f"dataloader.train.num_workers={args.workers}",
        *args.opts,
    )
    report = soak(args.config_file or CONFIG, overrides, args.work / "soak", args.warm_up)
    growth = max(report.growth(report.mebibytes), report.growth(report.workers_mebibytes))
    return str(report), growth > MAX_GROWTH_MIB


RUN = {"kill": _kill, "signals": _signals, "damage": _damage, "disk": _disk, "soak": _soak}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.fault_campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mode", choices=[*RUN, "all"], help="what to break")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("output/fault_campaign"),
        metavar="DIR",
        help="empty folder for everything (default: %(default)s)",
    )
    parser.add_argument("--keep", action="store_true", help="don't remove the folder afterwards")
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--count", type=int, default=18, help="of signals; default: %(default)s")
    parser.add_argument("--damages", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="of a training (default: 1)")
    parser.add_argument("--iterations", type=int, default=2000, help="of soak (default: 2000)")
    parser.add_argument(
        "--warm-up",
        type=int,
        default=200,
        help="iterations of soak in which memory may grow (default: 200)",
    )
    parser.add_argument("--workers", type=int, default=0, help="of soak's data loader (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--config-file", help="another training (default: a tiny one)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to its config")
    return parser


if __name__ == "__main__":
    sys.exit(main())
