"""What an installation takes along beside modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_data_files_are_installed():
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    data = set(ROOT.glob("sap_detr/**/*.json"))
    assert data
    assert {f"{'.'.join(p.parent.relative_to(ROOT).parts)}/{p.name}" for p in data} <= set(found)
    for name in ("training_curves.csv", "training_curves.md"):
        assert f"sap_detr.projects.sam_detr/{name}" in found
    assert "sap_detr/py.typed" in found
