"""A wheel of this checkout, in an environment of its own and an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NO_SOURCE = shutil.ignore_patterns(".*", "build", "datasets", "dist", "output", "*.egg-info")
RUN = "output/sap_detr_small_shapes"
TRAINED = f"{RUN}/model_final.safetensors"
# In this order: each uses what those before it left. All of them together are every command.
COMMANDS = """
env
configs list
configs show sap_detr/sap_detr_small_shapes.py
weights list
weights get small_sap_detr
train --config-file sap_detr/sap_detr_small_shapes.py dataset.num_train=4 dataset.num_val=4 train.max_iter=2 dataloader.train.total_batch_size=2
check --folder datasets/shapes --num-queries 16
eval --config-file output/sap_detr_small_shapes/config.yaml --weights TRAINED
predict --weights TRAINED --input datasets/shapes/val --json found.json --csv found.csv --draw drawn
export TRAINED detector.pt2 --size 64,64 --check-images datasets/shapes/val --annotations datasets/shapes/val.json
convert TRAINED weights.pth
convert-data datasets/shapes copied
benchmark params --config-file sap_detr/sap_detr_r50_50ep.py
view --weights TRAINED --input datasets/shapes/val --output page.html
install-detectron2
"""  # noqa: E501


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with the wheel, which finds all else in that of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    # Where it is built, folders are left behind.
    source = shutil.copytree(ROOT, folder / "source", ignore=NO_SOURCE)
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env")
    python = folder / "env" / "bin" / "python"
    run(*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    (site,) = (folder / "env" / "lib").glob("python3*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "env"


@pytest.mark.slow
def test_every_command_runs(environment, tmp_path):
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}
    options = {"cwd": tmp_path, "env": {**variables, "OMP_NUM_THREADS": "1"}}
    where = "import sap_detr; print(sap_detr.__file__)"
    found = run(environment / "bin" / "python", "-c", where, **options)
    assert found.stdout.startswith(str(environment))
    for line in COMMANDS.strip().splitlines():
        arguments = line.replace("TRAINED", TRAINED).split()
        done = run(environment / "bin" / "sap-detr", *arguments, **options)
        assert "Warning" not in done.stderr, line
