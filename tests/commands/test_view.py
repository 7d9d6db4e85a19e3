"""The command that writes a page of attention."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_detectors import CONFIGS, make_small_model

from sap_detr import cli
from sap_detr.checkpoint import save_checkpoint_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photos, and weights of two methods that don't describe their models."""
    folder = tmp_path_factory.mktemp("view")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(folder / name)
    for method in ("DETR", "SMCA"):
        content = {"model": make_small_model(method).state_dict(), "class_names": ["x", "y", "z"]}
        save_checkpoint_file(content, folder / f"{method}.pth")
    (folder / "text.png").write_text("no image")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.chdir(folder)
        status = cli.main(["view", "--device", "cpu", *arguments])
        return status, capsys.readouterr()

    return run


DETR = ["--weights", "DETR.pth", "--config-file", CONFIGS["DETR"][0]]
BOTH = ["--weights", "DETR.pth", "SMCA.pth", "--config-file", CONFIGS["DETR"][0]]
OPTIONS = ["--opts", "dataloader.test.mapper.augmentations.short_side=64"]


def test_one_page_for_two_models_and_all_pictures(run, folder):
    configs = [CONFIGS[method][0] for method in ("DETR", "SMCA")]
    weights = ["--weights", "DETR.pth", "SMCA.pth", "--config-file", *configs]
    status, shown = run(*weights, "--input", "a.png", "b.png", "--output", "out/both.html")
    assert status == 0
    page = (folder / "out" / "both.html").read_text(encoding="utf-8")
    assert f"see out/both.html: {len(page.encode()) / 1e6:.1f} MB, attention of 64" in shown.out
    assert page.count('"name":"a.png"') == page.count('"name":"SMCA.pth"') == 1
    assert "{{" not in page.replace("${{", "")


def test_few_queries_make_a_small_page(run, folder):
    sizes = []
    for number in ("1", "3"):
        status, shown = run(*DETR, "--input", "a.png", "--queries", number, *OPTIONS)
        assert status == 0
        assert f"attention of {number} queries" in shown.out
        sizes.append((folder / "view.html").stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--weights", "DETR.pth", "--input", "a.png"], "--config-file CONFIG"),
        (["--weights", "none.pth", "--input", "a.png"], "none.pth"),
        ([*DETR, "--input", "none.png"], "no file or folder none.png"),
        ([*DETR, "--input", "text.png"], "text.png"),
        ([*DETR, "--input", *["a.png"] * 25], "25 images, a page has 1 to 24"),
        ([*DETR, "--input", "a.png", "--threshold", "2"], "--threshold"),
        ([*DETR, "--input", "a.png", "--output", "."], "is a folder"),
        ([*DETR, "--input", "a.png", "--queries", "0"], "--queries"),
        ([*BOTH, "--input", "a.png"], "SMCA.pth"),
        ([*BOTH, "c", "d", "--input", "a.png"], "--config-file takes one"),
        (["--weights", "a", "b", "c", "--input", "a.png"], "--weights takes one file or two"),
        (["--weights", "a", "--input", "a.png", *OPTIONS], "--opts changes a config"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words, run, capsys):
    try:
        status, shown = run(*arguments)
        error = shown.err
    except SystemExit as end:
        status, error = end.code, capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(lines) == 1
    assert words in lines[0]
