"""The way from pictures to a detector, with the commands that the document gives."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sap_detr.cli import main

ROOT = Path(__file__).parents[1]
TITLE = "## From 500 pictures to a detector"


def commands() -> list[list[str]]:
    """The commands of the section, as a shell would split them."""
    text = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    section = text.split(f"{TITLE}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.fixture
def pictures(tmp_path):
    """A folder in YOLO's format without splits; what is to be found fills most of each image."""
    folder = tmp_path / "pictures"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(12):
        pixels = np.random.RandomState(index).randint(0, 99, (64, 64, 3)).astype(np.uint8)
        pixels[4:60, 4:60] += 120
        Image.fromarray(pixels).save(folder / f"images/{index}.png")
        (folder / f"labels/{index}.txt").write_text("0 0.5 0.5 0.875 0.875")
    (folder / "classes.txt").write_text("square")
    return folder


def test_the_commands_lead_to_a_detector(pictures, tmp_path, tiny_overrides, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Of seconds, under a name that Detectron2's catalogs do not have yet.
    model = [c for c in tiny_overrides if c.startswith(("model.", "lr_", "train.d"))]
    model = [c for c in model if "num_queries" not in c and "metric_period" not in c]
    small = [
        *model,
        "model.decoder.grid_size=[2,4]",
        "dataset.name=pictures",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "train.max_iter=30",
        "train.eval_period=15",
        "optimizer.lr=0.003",
        "train.ema.enabled=false",
    ]
    found = commands()
    steps = ["check", "train", "eval", "convert", "predict"]
    assert [line[:2] for line in found] == [["sap-detr", step] for step in steps]
    for _, command, *arguments in found:
        more = small if command == "train" else []
        assert main([command, *arguments, *more]) == 0, command
    for name in (
        "mine/first_batches.png",
        "mine/model_best.safetensors",
        "report/report.html",
        "found.json",
    ):
        assert (tmp_path / "output" / name).stat().st_size > 0, name
    assert len(list((tmp_path / "output/pictures").rglob("*.png"))) == 12
    log = (tmp_path / "output/mine/log.txt").read_text()
    assert "YOLO format, 20% of its images" in log
