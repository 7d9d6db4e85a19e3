"""A decoder of one's own beside its config: the example of the documents, and what can go wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from sap_detr.config import ConfigError, load_config

EXAMPLE = Path(__file__).parents[1] / "projects" / "example"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The example, in a folder that has nothing to do with the repository."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("point_decoder", "parts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return Path(shutil.copytree(EXAMPLE, tmp_path / "mine"))


def run(folder, *command):
    """Run a Python module from an empty folder beside this one."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_tests_of_the_example_pass_elsewhere(folder):
    assert "2 passed" in run(folder, "pytest", "-q", "-p", "no:cacheprovider", folder)


@pytest.mark.slow
def test_the_example_is_trained_by_several_processes_resumed_and_evaluated(folder, tiny_overrides):
    gone = ("model.decoder.num_queries", "model.decoder.ffn_dim")
    changes = [x for x in tiny_overrides if not x.startswith(gone)]
    changes += ["dataloader.train.num_workers=1", "train.seed=3"]
    changes.append("train.checkpointer.period=2")
    train = ["sap_detr.cli", "train", "--config-file", folder / "point_detr.py", "--num-gpus", 2]
    run(folder, *train, *changes, "train.max_iter=2")
    output = Path(next(x for x in changes if "output_dir" in x).partition("=")[2])
    shown = run(folder, *train, "--resume", *changes, "train.max_iter=4")
    assert "train.max_iter: 2 -> 4" in shown
    saved = load_config(str(output / "config.yaml"))
    assert saved.import_from == str(folder)
    assert saved.model.decoder._target_ == "point_decoder.PointDecoder"
    evaluate = ["sap_detr.cli", "eval", "--config-file", output / "config.yaml"]
    assert "copypaste" in run(folder, *evaluate, "--weights", output / "model_final.pth")
    folder.rename(folder.with_name("moved"))
    with pytest.raises(ConfigError, match="import_from=FOLDER"):
        load_config(str(output / "config.yaml"))
    moved = load_config(str(output / "config.yaml"), [f"import_from={folder.with_name('moved')}"])
    sys.modules.pop("point_decoder", None)
    assert isinstance(instantiate(moved.model), torch.nn.Module)


def test_a_config_without_modules_of_its_own_says_of_none(folder):
    plain = folder / "plain.py"
    plain.write_text("from sap_detr import model_zoo\nmodel = model_zoo.get_config("
                     "'detr/detr_r50_500ep.py').model\n")  # fmt: skip
    assert "import_from" not in load_config(str(plain))
    assert "import_from" not in load_config("detr/detr_r50_500ep.py")


DEFINED = {
    "class": ("class Mine:\n    pass\nmodel = L(Mine)()", "Mine"),
    "function": ("def mine():\n    pass\nmodel = L(mine)()", "mine"),
    "lambda": ("model = L('builtins.dict')(scale=lambda x: x)", "<lambda>"),
    "inner": ("from parts import make\nmodel = L(make())()", "make.<locals>.Inner"),
}


@pytest.mark.parametrize("kind", DEFINED)
def test_what_a_config_defines_itself_is_told_where_to_go(kind, folder):
    text, name = DEFINED[kind]
    (folder / "parts.py").write_text(
        "def make():\n    class Inner:\n        pass\n    return Inner\n"
    )
    config = folder / "bad.py"
    config.write_text(f"from detectron2.config import LazyCall as L\n{text}\n")
    with pytest.raises(ConfigError) as error:
        load_config(str(config))
    assert f"defines {name}," in str(error.value)
    assert str(folder / "my_parts.py") in str(error.value)


def test_a_module_that_another_one_hides_is_an_error(folder):
    (folder / "colorsys.py").write_text("def rgb_to_hls():\n    pass\n")
    config = folder / "hidden.py"
    config.write_text(
        "from colorsys import rgb_to_hls\nfrom detectron2.config import LazyCall as L\n"
        "model = L(rgb_to_hls)()\n"
    )
    with pytest.raises(ConfigError, match=r"beside it lies colorsys\.py"):
        load_config(str(config))


def test_modules_of_two_folders_are_not_taken_for_each_other(folder):
    load_config(str(folder / "point_detr.py"))
    other = Path(shutil.copytree(folder, folder.with_name("other")))
    with pytest.raises(ConfigError, match="give yours another name"):
        load_config(str(other / "point_detr.py"))
