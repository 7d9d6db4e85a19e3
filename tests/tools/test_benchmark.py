from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"
CONFIGS = ("common/models/detr_small.py", "common/models/sap_detr_small.py")


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def main(benchmark):
    return lambda *arguments: benchmark.main([str(argument) for argument in arguments])


def test_params(main, tmp_path, capsys):
    json_file, markdown = tmp_path / "params.json", tmp_path / "params.md"
    common = ("--num-classes", 5, "--json", json_file, "--markdown", markdown)
    assert main("params", "--config-file", *CONFIGS, *common) == 0
    content = json.loads(json_file.read_text())
    assert content["kind"] == "params"
    detr, sap_detr = content["records"]
    assert (detr["config"], detr["classes"]) == (CONFIGS[0], 5)
    assert sum(part["total"] for part in sap_detr["parts"].values()) == sap_detr["total"]
    for text in (capsys.readouterr().out, markdown.read_text()):
        assert f"{detr['total']:,}" in text
        assert f"{sap_detr['parts']['decoder']['total']:,}" in text


def test_flops(main, tmp_path, capsys):
    json_file, markdown = tmp_path / "flops.json", tmp_path / "flops.md"
    files = ("--json", json_file, "--markdown", markdown)
    size = ("--size", 64, 96, "--depth", 2)
    assert main("flops", "--config-file", *CONFIGS, *size, *files) == 0
    content = json.loads(json_file.read_text())
    assert "multiply-add" in content["convention"]
    detr, sap_detr = content["records"]
    assert (detr["images"], detr["classes"], detr["uncounted"]) == ("64x96", 91, {})
    assert detr["published"] == detr["all_heads"]
    assert sap_detr["published"]["total"] > sap_detr["all_heads"]["total"]
    assert "decoder.layers" in sap_detr["inference"]["parts"]
    total = f"{sap_detr['published']['total'] / 1e9:.2f}"
    for text in (capsys.readouterr().out, markdown.read_text()):
        assert total in text
        assert "multiply-add" in text


def test_overrides_and_recorded_sizes(benchmark, main, monkeypatch, tmp_path):
    sizes = {"file": [(64, 64), (64, 96)], "id": [(64, 64)]}
    monkeypatch.setattr(benchmark, "coco_val2017_sizes", sizes.__getitem__)
    file = tmp_path / "flops.json"
    tiny = ("model.backbone.width=4", "model.neck.in_channels=[8]", "model.encoder.num_layers=0")
    common = ("--coco-val2017", "file", "id", "--json", file, "--overrides", *tiny)
    assert main("flops", "--config-file", CONFIGS[0], *common) == 0
    by_file, by_id = json.loads(file.read_text())["records"]
    assert by_file["images"] == "first 100 of COCO val2017 by file"
    assert by_file["all_heads"]["total"] > by_id["all_heads"]["total"]
    assert by_id["overrides"] == list(tiny)
    assert "encoder" not in by_id["all_heads"]["parts"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["params", "--config-file", "detr/nothing.py"], "All names"),
        (["flops", "--config-file", CONFIGS[0], "--overrides", "model.no=1"], "no key 'no'"),
        (["params", "--config-file", CONFIGS[0], "--json", "nowhere/x.json"], "no folder nowhere"),
    ],
)
def test_errors_are_one_message(main, capsys, arguments, message):
    assert main(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("benchmark: ")
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--size", "0", "5"], ["--num-classes", "x"]])
def test_wrong_numbers(main, capsys, arguments):
    with pytest.raises(SystemExit):
        main("flops", "--config-file", CONFIGS[0], *arguments)
    assert "not a whole number above 0" in capsys.readouterr().err
