"""The command `sap-detr` as a whole: what each sub-command does has tests of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sap_detr import cli
from sap_detr.analysis import image_sizes, workload
from sap_detr.commands import benchmark as measures
from sap_detr.config import list_configs
from sap_detr.data import mapper
from sap_detr.parsers import benchmark
from sap_detr.published_weights import PUBLISHED

ROOT = Path(__file__).parents[1]
SHIMS = {
    "benchmark": "benchmark",
    "check_dataset": "check",
    "convert_checkpoint": "convert",
    "demo": "predict",
    "export_model": "export",
    "install_detectron2": "install-detectron2",
    "lazyconfig_train_net": "train",
}
HELP = """
import sys
from sap_detr.cli import main
try:
    main([*sys.argv[1:], "--help"])
finally:
    heavy = {"torch", "detectron2", "numpy", "omegaconf"} & sys.modules.keys()
    assert not heavy, heavy
"""


def run(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True)


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_imports_nothing_heavy_and_shows_examples(command):
    done = run("-W", "error", "-c", HELP, *command.split())
    assert (done.returncode, done.stderr) == (0, "")
    examples = re.findall(rf"^    (?:sap-detr|python -m \S+) ?{command}", done.stdout, re.M)
    assert len(examples) >= 2


def test_measures_have_options_of_their_own():
    done = run("-c", HELP, "benchmark", "speed")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--relative-to-body" in done.stdout


def test_file_names_that_are_not_text_are_printed():
    printing = (
        "import os, sys; from sap_detr import cli; "
        "cli.main = lambda argv: print(os.fsdecode(b'bad\\xff.jpg')); sys.exit(cli.script())"
    )
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [sys.executable, "-c", printing], capture_output=True, text=True, env=environ
    )
    assert (done.returncode, done.stdout) == (0, "bad\\udcff.jpg\n"), done.stderr


def test_choices_are_those_of_the_library():
    assert benchmark.DTYPES == workload.DTYPES
    assert benchmark.MODES == workload.MODES
    assert benchmark.ORDERS == image_sizes.ORDERS
    assert benchmark.READERS == mapper.READERS
    usage = cli.argument_parser()
    for name in measures.MEASURES:
        with pytest.raises(SystemExit) as end:
            usage.parse_args(["benchmark", name, "--help"])
        assert end.value.code == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "COMMAND"),
        (["nonsense"], "'train'"),
        (["eval"], "--config-file"),
        (["eval", "--config-file", "nothing"], "All names"),
        (["train"], "--config-file"),
        (["predict", "--config-file", "x", "--input", "y"], "--weights"),
        (["check"], "--folder"),
        (["check", "--folder", ".", "--pixel-range", "some"], "--pixel-range"),
        (["convert", "a.pth", "b.txt"], "b.txt"),
        (["convert-data", "nothing", "new"], "nothing, the folder of the data set, is missing"),
        (["export", "a.safetensors", "b.txt"], "b.txt"),
        (["export", "a.safetensors", "b.onnx", "--size", "640"], "'640'"),
        (["benchmark", "params", "--config-file", "nothing"], "All names"),
        (["benchmark"], "MEASURE"),
        (["configs", "list", "nothing"], "'nothing'"),
        (["configs", "show", "nothing"], "All names"),
        (["configs", "show", "--key", "modle", "detr/detr_r50_500ep"], "'modle'"),
        (["weights", "list", "nothing"], "'nothing'"),
        (["weights", "get", "sap_detr/sap_detr_r50_50ep"], "authors' README"),
        (["weights", "get", "checkpoint0011_4scale"], "by hand"),
        (["install-detectron2", "--sdist", "nothing.tar.gz"], "nothing.tar.gz"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words, capsys):
    try:
        status = cli.main(arguments)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def test_configs_are_listed_and_shown(capsys):
    assert cli.main(["configs", "list", "sam_detr"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) > 3
    assert all(name.startswith("sam_detr/") for name in names)
    assert cli.main(["configs", "show", names[0]]) == 0
    assert "\nmodel:\n" in capsys.readouterr().out
    show = ["configs", "show", "--key", "train.max_iter", "detr/detr_r50_500ep"]
    assert cli.main([*show, "train.max_iter=3"]) == 0
    assert capsys.readouterr().out == "train.max_iter: 3\n"


def test_weights_belong_to_configs_and_are_listed(capsys):
    for known in PUBLISHED:
        assert known.config in list_configs()
        assert known.sha256 in known.file
        assert not known.address or known.sha256
    for command in (["weights"], ["weights", "list"], ["weights", "list", "detr_r50"]):
        assert cli.main(command) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        row = ["detr-r50-e632da11", "detr/detr_r50_500ep.py", "159", "e632da11..."]
        assert row in [found[:4] for found in rows]
        assert ("small_sap_detr" in [found[0] for found in rows]) == (len(command) < 3)


LISTING = """
import sys
from sap_detr.cli import main
main(sys.argv[1:])
heavy = {"torch", "detectron2", "numpy", "omegaconf"} & sys.modules.keys()
assert not heavy, heavy
"""


@pytest.mark.parametrize("command", ["configs list", "weights list", "weights get small_sap_detr"])
def test_lists_do_not_wait_for_imports(command):
    done = run("-W", "error", "-c", LISTING, *command.split())
    assert (done.returncode, done.stderr) == (0, "")


def test_no_warning_of_other_libraries_is_shown():
    done = run("-m", "sap_detr.cli", "configs", "list")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_library_is_imported_without_warnings():
    done = run("-c", "import sap_detr.detector")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_environment_is_told(capsys):
    cli.main(["env"])
    assert "detectron2" in capsys.readouterr().out


def test_weights_are_evaluated_on_the_command_line(monkeypatch):
    seen = []
    evaluate = cli.import_module("sap_detr.commands.eval")
    monkeypatch.setattr(evaluate.train, "run", lambda args: seen.append(args) or 0)
    command = ["eval", "--config-file", "c.py", "--weights", "w.pth", "train.device=cpu"]
    assert cli.main(command) == 0
    (args,) = seen
    assert (args.eval_only, args.resume, args.num_gpus) == (True, False, None)
    assert args.opts == ["train.device=cpu", "train.init_checkpoint=w.pth"]


@pytest.mark.parametrize("tool, command", SHIMS.items())
def test_tools_are_the_same_commands(tool, command):
    done = run(str(ROOT / "tools" / f"{tool}.py"), "--help")
    assert done.stderr == ""
    assert done.stdout.startswith(f"usage: sap-detr {command} ")


@pytest.mark.parametrize("option", ["--input", "--annotations", "--json"])
def test_an_empty_path_is_not_the_current_folder(option, capsys):
    # As a variable of a shell that was not set.
    given = [] if option == "--input" else ["--input", "a.png"]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["predict", "--weights", "small_sap_detr", *given, option, ""])
    assert capsys.readouterr().err == f"error: argument {option}: an empty text is no path\n"
