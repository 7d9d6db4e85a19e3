"""The command `sap-detr`. Each sub-command imports what it needs once its options are read."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from types import ModuleType

from . import __version__
from .arguments import ArgumentParser
from .errors import UserError
from .parsers import (
    benchmark,
    check,
    configs,
    convert,
    convert_data,
    env,
    export,
    predict,
    train,
    view,
    weights,
)
from .parsers import eval as evaluation
from .parsers import install_detectron2 as installation

DESCRIPTION = """Detection transformers on Detectron2: DETR, SAM-DETR, SAP-DETR and DINO.

    sap-detr train --config-file sap_detr/sap_detr_r50_50ep.py --num-gpus 8
    sap-detr predict --config-file detr/detr_r50_500ep.py --weights detr-r50-e632da11.pth \\
        --input photo.jpg

Options, keys and examples of each: `sap-detr train --help`.
"""


@dataclass(frozen=True)
class Command:
    """A sub-command.

    Attributes:
        help: what it does, in a few words.
        parser: module with its options.
        work: name of the module of :mod:`sap_detr.commands` that does it. Which errors are told in
            one line it says in ``USER_ERRORS``, if not :class:`UserError` and those of the system.
    """

    help: str
    parser: ModuleType
    work: str


COMMANDS = {
    "train": Command("train a model", train, "train"),
    "eval": Command("evaluate weights", evaluation, "eval"),
    "predict": Command("detect in images, videos or a webcam, and draw", predict, "predict"),
    "view": Command("write a page to look at attention and points in", view, "view"),
    "check": Command("check a data set", check, "check"),
    "convert-data": Command("write a data set in COCO format", convert_data, "convert_data"),
    "convert": Command("convert checkpoints from and to published names", convert, "convert"),
    "export": Command("write torch.export, ONNX or OpenVINO", export, "export"),
    "benchmark": Command("measure parameters, FLOPs, speed, memory", benchmark, "benchmark"),
    "configs": Command("list configs, or print one", configs, "configs"),
    "weights": Command("list weights, or fetch published ones", weights, "weights"),
    "install-detectron2": Command(
        "install a Detectron2 that needs no compiler", installation, "install_detectron2"
    ),
    "env": Command("show what is installed, and what is wrong with it", env, "env"),
}


def argument_parser() -> ArgumentParser:
    """Return the parser of all sub-commands."""
    parser = ArgumentParser("sap-detr", DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"sap-detr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        description = command.parser.__doc__
        command.parser.add_options(
            commands.add_parser(name, help=command.help, description=description)
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: without the program's name.

    Returns:
        The exit status; 2, after one line, for what can't be done.
    """
    args = argument_parser().parse_args(argv)
    work = import_module(f"{__package__}.commands.{COMMANDS[args.command].work}")
    try:
        status: int = work.run(args)
    except getattr(work, "USER_ERRORS", (UserError, OSError)) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return status


def script(*command: str) -> int:
    """Run the command line of this process, as the only thing that it does.

    Args:
        command: the sub-command, if the command line does not begin with it.
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # As standard error does: names of files need not be text.
        sys.stdout.reconfigure(errors="backslashreplace")
    argv = [*command, *sys.argv[1:]]
    if argv[:1] in (["train"], ["eval"]):
        # Requests to stop wait for the imports to be done: training and evaluation obey them.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
    return main(argv)


if __name__ == "__main__":
    sys.exit(script())
