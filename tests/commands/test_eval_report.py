"""A report on a model that has learnt something: read in a browser, and used for thresholds."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from browser import Browser, needs_chromium
from PIL import Image

from sap_detr import cli
from sap_detr.checkpoint import load_checkpoint_file, save_checkpoint_file
from sap_detr.detector import Detector
from sap_detr.small_models import small_models

CONFIG = "sap_detr/sap_detr_small_shapes.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("thresholds")


@pytest.fixture(scope="module")
def weights():
    [model] = [model for model in small_models() if model.name == "small_sap_detr"]
    return model.file


@pytest.fixture(scope="module")
def report(folder, weights):
    """Of a small SAP-DETR that has learnt something, on a few images."""
    changes = [f"dataset.folder={folder}/shapes", "dataset.num_train=2", "dataset.num_val=6"]
    changes += ["dataset.name=few_shapes", "train.device=cpu", f"train.output_dir={folder}/run"]
    options = ["--config-file", CONFIG, "--weights", str(weights), "--report", f"{folder}/report"]
    assert cli.main(["eval", *options, *changes]) == 0
    return folder / "report"


@pytest.fixture(scope="module")
def kept(folder, weights, report):
    file = folder / "kept.safetensors"
    assert cli.main(["convert", str(weights), str(file), "--thresholds", str(report)]) == 0
    return file


@needs_chromium
def test_the_report_answers_in_a_browser(report):
    summary = json.loads((report / "results.json").read_text())
    results = json.loads((report / "coco_instances_results.json").read_text())
    chosen = max(range(len(summary["classes"])), key=lambda c: summary["classes"][c]["objects"])
    of_class = summary["classes"][chosen]
    scores = [r["score"] for r in results if r["category_id"] == of_class["category_id"]]

    def detections(page):
        return int(page.text("#tile-found")) + int(page.text("#tile-false-detections"))

    with Browser() as browser:
        page = browser.open(report / "report.html")
        assert page.text("#tile-AP50") == f"{summary['coco']['AP50']:.1f}"
        page.click(f"#pick-{chosen}")
        assert page.text("#tile-AP50") == f"{of_class['AP50']:.1f}"
        assert page.text("#tile-objects") == str(of_class["objects"])
        page.click("#threshold")
        page.press("Home")
        assert detections(page) == len(scores)
        for step in range(1, 31):
            page.press("ArrowRight")
            assert detections(page) == sum(score >= step / 100 for score in scores)
        pictures = page.evaluate("document.querySelectorAll('#worst image').length")
        assert pictures == len(summary["worst_images"]) > 2
        assert (page.errors, page.requests) == ([], [(report / "report.html").as_uri()])


def test_thresholds_of_the_report_are_kept_with_the_weights(weights, report, kept):
    summary = json.loads((report / "results.json").read_text())
    assert summary["coco"]["AP50"] > 20  # it has learnt something
    overall = summary["threshold"]["score"]
    expected = {
        c["name"]: overall if c["threshold"] is None else c["threshold"]["score"]
        for c in summary["classes"]
    }
    detector = Detector(kept, "cpu")
    assert len(set(expected.values())) > 3
    assert detector.thresholds.tolist() == pytest.approx(
        [expected[name] for name in detector.class_names]
    )
    before, after = load_checkpoint_file(weights), load_checkpoint_file(kept)
    assert all(torch.equal(after["model"][name], value) for name, value in before["model"].items())


def test_predict_goes_by_them(folder, report, kept):
    images = sorted((folder / "shapes" / "val").iterdir())
    table = folder / "table.csv"
    options = ["--weights", str(kept), "--input", *map(str, images), "--csv", str(table)]
    assert cli.main(["predict", *options, "--device", "cpu", "--threshold", "best"]) == 0
    with table.open() as file:
        rows = sorted(float(row["score"]) for row in csv.DictReader(file))
    found = Detector(kept, "cpu")(images, threshold="best")
    assert rows == pytest.approx(sorted(torch.cat([f.scores for f in found]).tolist()), abs=1e-5)
    # As many as the report counts.
    summary = json.loads((report / "results.json").read_text())
    expected = 0
    results = json.loads((report / "coco_instances_results.json").read_text())
    for c in summary["classes"]:
        limit = (c["threshold"] or summary["threshold"])["score"]
        of_class = [r["score"] for r in results if r["category_id"] == c["category_id"]]
        expected += sum(score >= limit for score in of_class)
    assert len(rows) == expected > 0


def test_weights_without_them_are_refused(folder, weights, capsys):
    Image.new("RGB", (64, 64)).save(folder / "image.png")
    image = str(folder / "image.png")
    options = ["--weights", str(weights), "--input", image, "--threshold", "best"]
    assert cli.main(["predict", *options, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "hold no thresholds" in error
    assert "sap-detr convert" in error
    with pytest.raises(SystemExit):
        cli.main(["predict", *options[:-1], "bset"])
    assert "'bset'" in capsys.readouterr().err


def test_reports_on_something_else_are_refused(folder, weights, report, kept, capsys):
    def convert(source, *options):
        return cli.main(["convert", str(source), f"{folder}/refused.safetensors", *options])

    assert convert(kept, "--thresholds", str(report)) == 2
    assert f"is about {weights}, not about {kept}" in capsys.readouterr().err
    assert convert(weights, "--thresholds", str(folder)) == 2
    assert "results.json can't be read" in capsys.readouterr().err
    assert convert(weights, "--thresholds", str(report), "--to", "published") == 2
    assert "names of ours" in capsys.readouterr().err
    bare = folder / "bare.pth"
    save_checkpoint_file({"model": load_checkpoint_file(weights)["model"]}, bare)
    assert convert(bare, "--thresholds", str(report)) == 2
    assert "add --config-file" in capsys.readouterr().err
    summary = json.loads((report / "results.json").read_text())
    summary["classes"] = summary["classes"][1:]
    other = folder / "other"
    other.mkdir()
    (other / "results.json").write_text(json.dumps(summary))
    assert convert(weights, "--thresholds", str(other)) == 2
    assert "is about the classes" in capsys.readouterr().err
    summary["threshold"]["score"] = None
    (other / "results.json").write_text(json.dumps(summary))
    assert convert(weights, "--thresholds", str(other)) == 2
    assert "no detection found an object" in capsys.readouterr().err
    assert not (folder / "refused.safetensors").exists()
