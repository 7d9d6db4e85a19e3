from __future__ import annotations

import json

import compare_benchmarks
import pytest

from sap_detr import cli
from sap_detr.commands import benchmark
from sap_detr.data.shapes import generate_shapes

CONFIGS = ("common/models/detr_small.py", "common/models/sap_detr_small.py")


@pytest.fixture
def main():
    return lambda *arguments: cli.main(["benchmark", *map(str, arguments)])


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


def test_overrides_and_recorded_sizes(main, monkeypatch, tmp_path):
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


def test_speed(main, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sap_detr.analysis.speed._MATMUL_SIDE", {"cpu": 64})
    files = ("--json", tmp_path / "speed.json", "--markdown", tmp_path / "speed.md")
    options = ("--repeats", 1, "--warm-up", 0, "--device", "cpu", "--threads", 1)
    config = ("--config-file", CONFIGS[0], "--num-classes", 3)
    assert main("speed", *config, "--sizes", 64, 96, *options, *files) == 0
    content = json.loads((tmp_path / "speed.json").read_text())
    assert content["kind"] == "speed"
    assert (content["machine"]["device"], content["machine"]["threads"]) == ("cpu", 1)
    assert [record["size"] for record in content["records"]] == [[64, 64], [96, 96]]
    for text in (capsys.readouterr().out, (tmp_path / "speed.md").read_text()):
        assert text.startswith("cpu (")
        assert "96x96" in text
        assert "backward" in text
    assert compare_benchmarks.main([str(tmp_path / "speed.json")] * 2) == 0
    assert "1.000" in capsys.readouterr().out


def test_memory(main, tmp_path, capsys, monkeypatch):
    asked = []

    def record(workload, threads):
        asked.append((workload, threads))
        figures = {"imports": 0, "model": 0, "peak": 2**30}
        both = {"inference": figures, "training": figures}
        return {**workload.identity, "device": "cpu", **both}

    monkeypatch.setattr(benchmark, "memory_record", record)
    options = ("--device", "cpu", "--size", 64, 96, "--dtype", "bfloat16", "--batch", 2)
    assert main("memory", "--config-file", *CONFIGS, *options) == 0
    assert [workload.config for workload, _ in asked] == list(CONFIGS)
    workload, threads = asked[0]
    assert threads is None
    assert (workload.size, workload.dtype, workload.batch) == ((64, 96), "bfloat16", 2)
    assert "1,024" in capsys.readouterr().out


@pytest.mark.slow
def test_runtimes(main, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    json_file = tmp_path / "runtimes.json"
    common = ("--size", 64, 96, "--threads", 1, "--repeats", 2, "--json", json_file)
    names = ("--config-file", "sap_detr/sap_detr_small_shapes.py", "--runtimes")
    runtimes = ("onnx-float32", "openvino-float32")
    assert main("runtimes", *names, *runtimes, *common) == 0
    [record] = json.loads(json_file.read_text())["records"]
    assert (record["size"], record["threads"]) == ([64, 96], 1)
    eager, onnx = record["runtimes"]["eager"], record["runtimes"]["onnx-float32"]
    assert eager["times_as_fast"]["low"] == eager["times_as_fast"]["high"] == 1
    assert eager["bytes"] is None
    # 1.9M numbers in float32, and the graph: of each file alone.
    for name in runtimes:
        assert 7_000_000 < record["runtimes"][name]["bytes"] < 12_000_000
    assert min(eager["memory"], onnx["memory"]) > 5_000_000
    assert "onnx-float32" in capsys.readouterr().out


def test_runtimes_are_those_of_the_cpu_in_float32(main, capsys):
    names = ("--config-file", "sap_detr/sap_detr_small_shapes.py")
    assert main("runtimes", *names, "--dtype", "bfloat16") == 2
    assert "on the CPU with the eager model in float32" in capsys.readouterr().err


def test_profile(main, capsys):
    options = ("--device", "cpu", "--size", 64, 64, "--mode", "inference", "--top", 3)
    assert main("profile", "--config-file", CONFIGS[0], "--num-classes", 3, *options) == 0
    out = capsys.readouterr().out
    assert "64x64, float32, inference" in out
    assert "aten::" in out
    assert "training" not in out


def test_loader(main, tmp_path, capsys):
    folder = tmp_path / "my_shapes"
    generate_shapes(folder, num_train=3, num_val=1, image_size=(64, 64))
    out = ("--json", tmp_path / "loader.json", "--markdown", tmp_path / "loader.md")
    common = ("--folder", folder, "--repeats", 1, "--readers", "pil", "device")
    assert main("loader", *common, "--limit", 2, *out) == 0
    (record,) = json.loads((tmp_path / "loader.json").read_text())["records"]
    assert (record["images"], list(record["readers"])) == (2, ["pil", "device"])
    for text in (capsys.readouterr().out, (tmp_path / "loader.md").read_text()):
        assert "images/s/core" in text
        assert "2 of my_shapes" in text
    for file in folder.rglob("*train*/*.[jp][pn]g"):
        file.write_text("text")
    assert main("loader", *common) == 2
    assert "not an image" in capsys.readouterr().err


def test_counts_are_compared(main, tmp_path, capsys):
    old, new, out = (tmp_path / name for name in ("old.json", "new.json", "out.json"))
    common = ("--config-file", CONFIGS[0], "--num-classes")
    main("params", *common, 5, "--json", old)
    main("params", *common, 6, "--json", new)
    capsys.readouterr()
    assert compare_benchmarks.main([str(old), str(new), "--json", str(out)]) == 0
    assert "1.000" in capsys.readouterr().out
    rows = json.loads(out.read_text())
    assert [row["figure"] for row in rows] == ["parameters", "trained"]
    assert all(row["ratio"] > 1 for row in rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["params", "--config-file", "detr/nothing.py"], "All names"),
        (["flops", "--config-file", CONFIGS[0], "--overrides", "model.no=1"], "no key 'no'"),
        (["params", "--config-file", CONFIGS[0], "--json", "nowhere/x.json"], "no folder nowhere"),
        (["speed", "--config-file", "detr/nothing.py"], "All names"),
        (["memory", "--config-file", CONFIGS[0], "--overrides", "model.no=1"], "no key 'no'"),
        (
            ["speed", "--config-file", CONFIGS[0], "--data", ".", "--relative-to-body"],
            "leave out --data",
        ),
    ],
)
def test_errors_are_one_message(main, capsys, arguments, message):
    assert main(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--size", "0", "5"], ["--num-classes", "x"]])
def test_wrong_numbers(main, capsys, arguments):
    with pytest.raises(SystemExit):
        main("flops", "--config-file", CONFIGS[0], *arguments)
    assert "not a whole number above 0" in capsys.readouterr().err
