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
