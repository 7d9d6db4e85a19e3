"""The command that evaluates and reports, of a model and with detections that are there."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from evaluate_detections import MadeUpDetections
from generated_detections import generate

from sap_detr import cli
from sap_detr.engine import DetectionTrainer, main

CONFIG = "detr/detr_small_shapes.py"


@pytest.fixture
def files(tmp_path):
    """Annotations and results of a generated set."""
    truth, results = generate(3)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(results))
    return ["--results", f"{tmp_path}/found.json", "--annotations", f"{tmp_path}/truth.json"]


def made_up_evaluation(cfg):
    name = cfg.dataloader.test.dataset.names
    return DetectionTrainer.test(cfg, MadeUpDetections(name))


def test_detections_that_are_there_are_reported(files, tmp_path, capsys):
    assert cli.main(["eval", *files, "--report", f"{tmp_path}/new/report"]) == 0
    assert "new/report/results.json" in capsys.readouterr().out
    summary = json.loads((tmp_path / "new/report/results.json").read_text())
    assert summary["images"] == 12
    assert summary["source"]["results"] == f"{tmp_path}/found.json"
    assert summary["source"]["weights"] is None


def test_weights_are_evaluated_and_reported(tiny_overrides, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main, "evaluate", made_up_evaluation)
    weights, report = tmp_path / "model.pth", tmp_path / "a report"
    weights.write_bytes(b"weights")
    options = ["--config-file", CONFIG, "--weights", str(weights), "--report", str(report)]
    assert cli.main(["eval", *options, *tiny_overrides]) == 0
    summary = json.loads((report / "results.json").read_text())
    assert (summary["images"], summary["source"]["weights"]) == (5, str(weights))
    assert summary["source"]["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    # The AP that counts is the evaluator's, which it logs.
    output = capsys.readouterr().out
    logged = re.search(r"copypaste: (AP,.*)\n.*copypaste: (.*)\n", output)
    logged = dict(zip(*(group.split(",") for group in logged.groups()), strict=True))
    assert 0 < float(logged["AP"]) < 100
    for name, value in logged.items():
        found = summary["coco"][name]
        assert value == ("nan" if found is None else f"{found:.4f}")
    assert sorted(path.name for path in report.iterdir()) == [
        "coco_instances_results.json",
        "report.html",
        "results.json",
    ]


def test_reports_and_results_are_compared(files, tmp_path, capsys):
    """Another file, a report by its folder and by its results: the same detections."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.main(["eval", *files, "--report", str(first)]) == 0
    for other in (first, first / "results.json", tmp_path / "found.json"):
        assert cli.main(["eval", *files, "--report", str(second), "--against", str(other)]) == 0
        against = json.loads((second / "results.json").read_text())["against"]
        assert against["name"] == f"{tmp_path}/found.json"
        assert [row["name"] for row in against["rows"][:3]] == ["AP", "AP50", "AP75"]
        for row in against["rows"]:
            assert (row["difference"], row["low"], row["high"]) in [(0, 0, 0), (None, None, None)]
    assert "Against the other run" in (second / "report.html").read_text()
    (tmp_path / "found.json").rename(tmp_path / "moved.json")
    options = ["eval", "--results", f"{tmp_path}/moved.json", *files[2:], "--report", str(second)]
    assert cli.main([*options, "--against", str(first)]) == 2
    assert "found.json, are gone" in capsys.readouterr().err


def test_two_weights_are_compared(tiny_overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "evaluate", made_up_evaluation)
    options = ["--config-file", CONFIG, "--report", str(tmp_path / "report")]
    for name in ("weights", "against"):
        (tmp_path / f"{name}.pth").write_bytes(b"")
        options += [f"--{name}", f"{tmp_path}/{name}.pth"]
    assert cli.main(["eval", *options, *tiny_overrides]) == 0
    summary = json.loads((tmp_path / "report/results.json").read_text())
    assert summary["source"]["weights"] == f"{tmp_path}/weights.pth"
    found = tmp_path / "report/against/coco_instances_results.json"
    assert summary["against"]["name"] == str(found)
    assert summary["against"]["rows"][0]["this"] == summary["coco"]["AP"]
    assert not found.with_name("instances_predictions.pth").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        ([], "--config-file"),
        (["--results", "{found}"], "--annotations FILE and --report FOLDER"),
        (
            ["--results", "nowhere.json", "--annotations", "{truth}", "--report", "r"],
            "nowhere.json",
        ),
        (["--results", "{truth}", "--annotations", "{found}", "--report", "r"], "are a dict"),
        (["--results", "{truth}", "--annotations", "{truth}", "--report", "r"], "are a list"),
        (["--results", "{text}", "--annotations", "{truth}", "--report", "r"], "is no json file"),
        (["--config-file", CONFIG, "--report", "{truth}"], "must be a folder"),
        (["--config-file", CONFIG, "--annotations", "{truth}"], "belong to --results"),
        (["--config-file", CONFIG, "--against", "{found}"], "--against needs --report"),
        (["--config-file", CONFIG, "--report", "r", "--against", "no.pth"], "there is no no.pth"),
        (
            [
                "--results",
                "{found}",
                "--annotations",
                "{truth}",
                "--report",
                "r",
                "--against",
                "{weights}",
            ],
            "a report or another file of results",
        ),
        (["--config-file", CONFIG, "--results", "{found}"], "nothing is run"),
        (
            ["--config-file", CONFIG, "--report", "r", "dataloader.test.dataset.names=[]"],
            "has 0: name one",
        ),
        (
            [
                "--config-file",
                CONFIG,
                "--report",
                "r",
                "dataloader.evaluator._target_=detectron2.evaluation.LVISEvaluator",
            ],
            "needs COCOEvaluator",
        ),
    ],
)
def test_mistakes_are_told_before_anything_runs(options, words, files, tmp_path, capsys):
    (tmp_path / "text.json").write_text("{")
    names = {name: f"{tmp_path}/{name}.json" for name in ("truth", "found", "text")}
    names["weights"] = f"{tmp_path}/weights.pth"
    (tmp_path / "weights.pth").write_bytes(b"")
    assert cli.main(["eval", *(option.format(**names) for option in options)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "r").exists()
