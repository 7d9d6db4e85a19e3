"""The fault campaign, as a user types it, in small."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fault_campaign.__main__ import main

ROOT = Path(__file__).parents[3]


def run(tmp_path, *arguments, before="", status=0):
    """In a process of its own, because it forks others."""
    code = f"import sys\n{before}\nfrom tools.fault_campaign.__main__ import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--work", str(tmp_path / "work")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,  # a hang, not a busy machine
    )
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-3000:]
    assert (tmp_path / "work").exists() == bool(status)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_kills_lose_nothing(tmp_path, processes):
    output = run(tmp_path, "kill", "--kills", "4", "--processes", str(processes))
    assert re.search(r"^kill: 4 kills.*bit for bit as without kills$", output, re.MULTILINE)


@pytest.mark.slow
def test_signals_lose_nothing(tmp_path):
    output = run(tmp_path, "signals", "--count", "9")
    assert re.search(r"^signals: 9 signals.*bit for bit as without signals$", output, re.MULTILINE)


@pytest.mark.slow
def test_lost_state_is_noticed(tmp_path):
    forget = (
        "from sap_detr.data import EpochSampler\nEpochSampler.set_step = lambda self, step: None\n"
    )
    # From the second on, kills come after a checkpoint.
    output = run(tmp_path, "kill", "--kills", "6", before=forget, status=1)
    assert re.search(r"^kill: .*killed_\d+/model_final.pth: model_final\[", output, re.MULTILINE)


@pytest.mark.slow
def test_damaged_checkpoints_and_full_disks(tmp_path):
    output = run(tmp_path, "damage", "--damages", "6")
    assert re.search(r"^damage: \d+ damaged checkpoints .*none loaded", output, re.MULTILINE)
    output = run(tmp_path, "disk")
    assert re.search(r"^disk: .*nothing was lost$", output, re.MULTILINE)


@pytest.mark.slow
def test_soak(tmp_path):
    output = run(tmp_path, "soak", "--iterations", "120", "--warm-up", "60", "--workers", "1")
    assert re.search(r"^soak: 120 iterations: .*; workers", output, re.MULTILINE)


def test_a_folder_with_content_is_left_alone(tmp_path, capsys):
    (tmp_path / "precious").touch()
    assert main(["kill", "--work", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "precious").exists()
