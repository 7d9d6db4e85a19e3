"""What the documents tell to type works as it stands, or they say why no test types it.

Every block of a document that is not marked is run, in order, in a folder that has what a reader
would have: this repository's files, pictures, data, and a finished run. Trainings get a few
iterations.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from document_blocks import DOCUMENTS, MARK, ROOT, Block, blocks
from jobs import Command
from PIL import Image

from sap_detr.checkpoint import load_checkpoint_file, save_checkpoint_file
from sap_detr.config import load_config
from sap_detr.data.shapes import generate_shapes
from sap_detr.engine.run_config import save_config
from sap_detr.small_models import small_models

BIN = Path(sys.executable).parent
# Of a training: not what it learns is asked, but that it can be started so.
FEW = [
    *("train.max_iter=4", "train.eval_period=4", "train.device=cpu"),
    *("dataloader.train.total_batch_size=2", "lr_multiplier.warmup_length=0.5"),
]
SMALL_IMAGES = [
    "dataloader.test.mapper.augmentations.short_side=64",
    "dataloader.train.mapper.augmentations.short_sides=[64]",
]
FEW_IMAGES = ["dataset.num_train=4", "dataset.num_val=4"]
# What the readers of a block have beside the files: names, and a number that SLURM gives.
NAMES = {
    "docs/faults.md": "from sap_detr.config import load_config\n"
    "train = load_config('detr/detr_r50_500ep.py').train\n",
    "docs/training.md": "from detectron2.config import LazyCall as L\n"
    "from sap_detr.config import load_config\n"
    "model = load_config('detr/detr_r50_500ep.py').model\n",
    "docs/using_models.md": "from detectron2.config import get_cfg\ncfg = get_cfg()\n",
}
PLACEHOLDERS = {"/path/to/": "", "$SLURM_ARRAY_TASK_ID": "1"}
WRITTEN = ("--report", "--draw", "--json", "--output")
# What the text says is there in the end, and a piece of it.
LEFT = {
    "README.md": {"detector.onnx": b"sap_detr.class_names"},
    "docs/own_data.md": {
        "output/mine/first_batches.png": b"PNG",
        "output/pictures/11.png": b"PNG",
        "output/mine/log.txt": b"YOLO format, 20% of its images",
    },
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What readers have."""
    folder = tmp_path_factory.mktemp("given")
    for name in ("configs", "docs", "projects", "tools"):
        (folder / name).symlink_to(ROOT / name)
    # As the configs of shapes generate it.
    shapes = generate_shapes(
        folder / "datasets/shapes", 4, 4, (64, 64), max_objects=4, min_radius=9
    )
    shutil.copytree(shapes, folder / "data")
    pictures = sorted((shapes / "val").iterdir())
    for name in ("photo.jpg", "other.jpg", "folder/a.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(pictures[0], folder / name)
    Image.open(pictures[0]).resize((900, 500)).save(folder / "aerial.png")
    shutil.copytree(shapes / "val", folder / "datasets/mine/val")
    (folder / "datasets/mine/annotations").mkdir()
    shutil.copy(shapes / "val.json", folder / "datasets/mine/annotations")
    _labelled_in_yolo(folder / "pictures")
    _finished_run(folder / "output/run")
    shutil.copy(folder / "output/run/model_best.safetensors", folder)
    return folder


def _labelled_in_yolo(folder):
    """Pictures without splits; what is to be found is where the first stage of DINO begins."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(12):
        pixels = np.random.RandomState(index).randint(0, 99, (64, 64, 3)).astype(np.uint8)
        for y, x in product((16, 48), repeat=2):
            pixels[y - 6 : y + 7, x - 6 : x + 7] += 120
        Image.fromarray(pixels).save(folder / f"images/{index}.jpg")
        objects = [f"0 {x} {y} 0.2 0.2" for y, x in product((0.25, 0.75), repeat=2)]
        (folder / f"labels/{index}.txt").write_text("\n".join(objects))
    (folder / "classes.txt").write_text("square")


def _finished_run(folder):
    """The folder of a training that has learnt something."""
    folder.mkdir(parents=True)
    [model] = [model for model in small_models() if model.name == "small_sap_detr"]
    for name in ("model_best", "model_final"):
        shutil.copy(model.file, folder / f"{name}.safetensors")
    for name in ("model_final", "model_0009999"):
        save_checkpoint_file(load_checkpoint_file(model.file), folder / f"{name}.pth")
    training = model.training()
    save_config(load_config(training["config"], training["changes"]), folder)


class Shell:
    """Runs blocks, one after the other, and stays in the folder that they change to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"

    def run(self, block: Block) -> None:
        if block.language == "python":
            script = self.folder / "block.py"
            script.write_text(NAMES.get(block.place.split(":")[0], "") + block.text)
            self._fork(block.place, script, [])
            return
        for line in block.lines():
            for placeholder, value in PLACEHOLDERS.items():
                line = line.replace(placeholder, value)
            words = shlex.split(line, comments=True)
            if words[0] == "cd":
                self.folder /= words[1]
            elif words[0] == "sap-detr":
                self._fork(f"{block.place}: {line}", BIN / "sap-detr", few(words[1:]))
            else:
                self._start(f"{block.place}: {line}", line)
            for option, file in pairwise(words):
                if option in WRITTEN:
                    assert (self.folder / file).exists(), f"{block.place}: no {file}"

    def _fork(self, place, script, arguments):
        command = Command(self.log, arguments, script, folder=self.folder)
        status = command.finish(timeout=900)
        assert status == 0, f"{place}\nended with {status}:\n{command.output[-3000:]}"

    def _start(self, place, line):
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{place}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"


def few(words: list[str]) -> list[str]:
    """The words of a command, with as little to do as possible."""
    if words[0] not in ("train", "eval"):
        return words
    generated = any("small_shapes" in word or "point_detr.py" in word for word in words)
    small = any("lite0" in word for word in words)
    return [
        *words,
        *(FEW if words[0] == "train" else []),
        *(FEW_IMAGES if generated else []),
        *(SMALL_IMAGES if small else []),
    ]


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


RUN = [d for d in DOCUMENTS if any(block.reason is None for block in blocks(d))]


@pytest.mark.slow
@pytest.mark.parametrize("document", RUN, ids=name)
def test_what_is_to_be_typed_works(document, given, tmp_path):
    folder = shutil.copytree(given, tmp_path / "here", symlinks=True)
    shell = Shell(folder)
    for block in blocks(document):
        if block.reason is None:
            shell.run(block)
    for file, piece in LEFT.get(name(document), {}).items():
        assert piece in (folder / file).read_bytes(), file


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_block_is_seen_and_every_mark_has_one(document):
    text = document.read_text(encoding="utf-8")
    found = blocks(document)
    marks = [line for line in text.splitlines() if line.strip().startswith(MARK)]
    assert len(marks) == sum(block.reason is not None for block in found)
    fences = [line.strip()[3:] for line in text.splitlines() if line.strip().startswith("```")]
    opening = fences[::2]
    assert set(fences[1::2]) <= {""}
    assert set(opening) <= {"bash", "python", "bibtex", ""}
    assert len(found) == len([language for language in opening if language in ("bash", "python")])


def test_a_block_that_fails_is_told(tmp_path):
    for text in ("sap-detr predict --weights none.pth --input photo.jpg\n", "false\n"):
        with pytest.raises(AssertionError, match=r"README\.md:7: "):
            Shell(tmp_path).run(Block("README.md:7", "bash", text, None))
    with pytest.raises(AssertionError, match=r"NameError: .*nothing"):
        Shell(tmp_path).run(Block("README.md:7", "python", "nothing\n", None))
