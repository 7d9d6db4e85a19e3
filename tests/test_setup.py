"""What an installation takes along beside modules."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from sap_detr.cli import argument_parser

ROOT = Path(__file__).parents[1]
SCRIPT = """
import setuptools
from distutils.core import run_setup
command = run_setup("setup.py", stop_after="commandline").get_command_obj("build_py")
command.ensure_finalized()
for package, _, _, files in command.data_files:
    for name in files:
        print(f"{package}/{name}")
"""
METADATA = """
import setuptools
import sys
from distutils.core import run_setup
described = run_setup("setup.py", stop_after="init")
described.metadata.write_pkg_file(sys.stdout)
print(described.entry_points["console_scripts"])
"""


def test_data_files_are_installed():
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    files = [path for path in ROOT.glob("sap_detr/**/*") if path.is_file()]
    data = {
        path.relative_to(ROOT).as_posix() for path in files if path.suffix not in (".py", ".pyc")
    }
    assert any(path.endswith(".safetensors") for path in data)
    installed = set()
    for line in found:
        package, _, name = line.partition("/")
        installed.add(f"{package.replace('.', '/')}/{name}")
    assert data <= installed, data - installed
    for name in ("training_curves.csv", "training_curves.md"):
        assert f"sap_detr.projects.sam_detr/{name}" in found
    assert "sap_detr/py.typed" in found


def test_metadata_are_complete():
    found = subprocess.run(
        [sys.executable, "-c", METADATA], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for field in ("Summary", "License", "Keywords", "Requires-Python", "Classifier"):
        assert f"\n{field}: " in found
    assert "\n# SAP-DETR, SAM-DETR, DINO and DETR on Detectron2\n" in found
    assert "['sap-detr = sap_detr.cli:script']" in found


@pytest.mark.parametrize("name", ["cpu.Dockerfile", "cuda.Dockerfile"])
def test_containers_install_extras_that_exist_and_start_the_command(name):
    text = (ROOT / "docker" / name).read_text(encoding="utf-8")
    [extras] = re.findall(r"'\.\[([^\]]+)\]'", text)
    declared = set(distribution("sap-detr").metadata.get_all("Provides-Extra"))
    assert set(extras.split(",")) <= declared
    [entry] = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    assert json.loads(entry) == ["sap-detr"]
    # What is shown at the top is a command that exists.
    shown = " ".join(line.lstrip("# ").rstrip("\\") for line in text.split("FROM")[0].splitlines())
    words = shlex.split(shown[shown.index("docker run") :])
    image = next(i for i, word in enumerate(words) if word.startswith("sap-detr:"))
    assert f"-t {words[image]} " in shown
    assert argument_parser().parse_args(words[image + 1 :]).command == words[image + 1]
