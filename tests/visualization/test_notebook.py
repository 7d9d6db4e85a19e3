"""The notebook in the documents runs, and shows where the best detection looked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/notebooks/attention.py"


@pytest.mark.slow
def test_runs_from_an_image_to_attention(tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    command = [sys.executable, str(NOTEBOOK)]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert re.search(r"^star +0\.\d\d", ran.stdout, re.MULTILINE)
    assert "heads, rows and columns of the memory: (8, 8, 12)" in ran.stdout
    assert (tmp_path / "attention.png").stat().st_size > 10_000


def test_is_made_of_cells() -> None:
    cells = NOTEBOOK.read_text(encoding="utf-8").split("\n# %%")[1:]
    text = [cell for cell in cells if cell.startswith(" [markdown]")]
    assert len(text) >= 5
    assert len(cells) - len(text) >= 5
    for cell in text:
        assert all(line.startswith("#") for line in cell.splitlines()[1:] if line)
