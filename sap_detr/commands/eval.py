"""Evaluate weights on the validation data of a config."""

from __future__ import annotations

import argparse

from . import train

USER_ERRORS = train.USER_ERRORS


def run(args: argparse.Namespace) -> int:
    """Evaluate; return the exit status."""
    opts = list(args.opts)
    if args.weights is not None:
        opts.append(f"train.init_checkpoint={args.weights}")
    options = {**vars(args), "opts": opts, "eval_only": True, "resume": False}
    return train.run(argparse.Namespace(**options))
