"""The page of a report in a browser: what a reader clicks changes the numbers, which are right."""

from __future__ import annotations

import json

import numpy as np
import pytest
from browser import Browser, needs_chromium
from generated_detections import generate
from PIL import Image

from sap_detr.evaluation import Source, evaluate, page, write_report
from sap_detr.evaluation.confusion import confusion_matrix

pytestmark = needs_chromium

# Text and background of everything that is written, where they differ too little (WCAG AA: 4.5).
FAINT = """(() => {
  const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const behind = node => {
    if (!node) return [255, 255, 255];
    const [r, g, b, a = 1] = parse(getComputedStyle(node).backgroundColor);
    if (a === 0) return behind(node.parentElement);
    return behind(node.parentElement).map((v, i) => v * (1 - a) + [r, g, b][i] * a);
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *:not(script):not(title)")) {
    const own = [...node.childNodes].filter(c => c.nodeType === 3 && c.textContent.trim());
    if (!own.length || node.closest("[disabled]")) continue;
    const style = getComputedStyle(node), svg = node instanceof SVGElement;
    const pair = [light(parse(svg ? style.fill : style.color)), light(behind(node))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) faint.push([own[0].textContent.trim(), ratio]);
  }
  return faint;
})()"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def case():
    truth, results = generate(2, num_images=60)
    truth["categories"][1]["name"] = "</script><img src=x onerror=fail()>$data"
    truth["images"][7]["file_name"] = "<b>& 'quoted'.jpg"
    return truth, results, evaluate(truth, results)


@pytest.fixture(scope="module")
def report(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    truth, results, _ = case
    for image in truth["images"]:
        # One of them is no image at all.
        if image["file_name"] != "3.jpg":
            picture = Image.effect_noise((image["width"], image["height"]), 40).convert("RGB")
            picture.save(folder / image["file_name"], "JPEG")
    for name, content in (("truth", truth), ("found", results)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    source = Source(folder / "truth.json", folder / "found.json", folder)
    write_report(source, folder / "out")
    return folder / "out" / "report.html"


def counts(evaluation, threshold, cls=None):
    """Objects, right and false detections, by hand."""
    found, objects = evaluation.data.detections, evaluation.data.objects
    shown = evaluation.counted & (found.score >= threshold)
    single = ~objects.crowd
    if cls is not None:
        shown, single = shown & (found.cls == cls), single & (objects.cls == cls)
    right = int((shown & evaluation.correct).sum())
    return int(single.sum()), right, int(shown.sum()) - right


def tiles(page):
    names = ("objects", "found", "false-detections")
    return tuple(int(page.text(f"#tile-{name}")) for name in names)


def test_a_reader_chooses_class_and_threshold(browser, report, case):
    opened = browser.open(report)
    evaluation = case[2]
    best = evaluation.overall.score
    step = round(best * 100)
    assert opened.text("#threshold-value") == f"{step / 100:.2f}"
    assert tiles(opened) == counts(evaluation, step / 100)
    opened.click("#pick-2")
    assert opened.evaluate("document.querySelector('#class').selectedOptions[0].text") == "class 2"
    assert tiles(opened) == counts(evaluation, step / 100, 2)
    before = opened.text("#count-background")
    opened.click("#threshold")
    opened.press("Home")
    for _ in range(9):
        opened.press("ArrowRight")
    assert opened.text("#threshold-value") == "0.09"
    assert tiles(opened) == counts(evaluation, 0.09, 2)
    kinds = {"background": 4, "localisation": 1, "duplicate": 3}
    found = evaluation.data.detections
    for name, number in kinds.items():
        chosen = (evaluation.errors.kind == number) & (found.score >= 0.09) & (found.cls == 2)
        assert opened.text(f"#count-{name}") == str(chosen.sum())
    assert opened.text("#count-background") != before
    opened.press("End")
    assert tiles(opened)[1:] == (0, 0)
    opened.click("#best")
    nearest = round(evaluation.thresholds[2].score * 100) / 100
    assert tiles(opened) == counts(evaluation, nearest, 2)
    assert (opened.errors, opened.requests) == ([], [report.as_uri()])


def test_every_number_of_the_page_is_that_of_the_evaluation(browser, report, case):
    opened = browser.open(report)
    evaluation = case[2]
    data = evaluation.data
    for step in range(0, 101, 4):
        matrix = confusion_matrix(data, evaluation.matches, evaluation.confusion, step / 100)
        matrix = matrix.ravel().tolist()
        assert opened.evaluate(f"[...confusionMatrix({step})]") == matrix
        for cls in (-1, *range(data.num_classes)):
            told = opened.evaluate(f"(t => [t.objects, t.correct, t.wrong])(tally({cls}, {step}))")
            assert tuple(told) == counts(evaluation, step / 100, None if cls < 0 else cls)
    missed = np.bincount(data.objects.cls[evaluation.errors.missed], minlength=data.num_classes)
    assert opened.evaluate("NAMES.map((_, c) => tally(c, 0).kinds[MISSED])") == missed.tolist()


def test_curves_are_read_with_mouse_and_keys(browser, report, case):
    opened = browser.open(report)
    opened.hover("#f1 svg.chart")
    assert opened.text("#f1 .readout").startswith("threshold 0.46: F1 ")
    opened.evaluate("document.querySelector('#f1 svg.chart').focus()")
    opened.press("Home")
    opened.press("ArrowRight")
    opened.press("ArrowRight")
    objects, right, false = counts(case[2], 0.02)
    f1 = 2 * right / (objects + right + false)
    precision = right / (right + false)
    assert opened.text("#f1 .readout") == (
        f"threshold 0.02: F1 {f1:.3f}, precision {precision:.3f}, recall {right / objects:.3f}"
    )
    opened.click("#pick-0")
    opened.hover("#pr svg.chart")
    precision = case[2].numbers.precision[0, 0]
    told = float(opened.text("#pr .readout").split("precision ")[1].split()[0])
    assert told == pytest.approx(precision[round(100 * recall(opened))], abs=6e-4)


def recall(opened):
    return float(opened.text("#pr .readout").split()[1].strip(":"))


def test_images_are_sorted_filtered_and_drawn(browser, report, case):
    opened = browser.open(report)
    rows = "[...document.querySelectorAll('#images tbody tr')].map(r => r.cells[%d].innerText)"
    errors = [int(value) for value in opened.evaluate(rows % 5)]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 50
    opened.click("#sort-f1")
    f1 = [float(value) for value in opened.evaluate(rows % 6)]
    assert f1 == sorted(f1)
    assert opened.evaluate("document.querySelector('[aria-sort=ascending]').innerText") == "F1 ↑"
    opened.click("#images .pages button:last-child")
    assert len(opened.evaluate(rows % 0)) == 10
    opened.click("#filter")
    for key in "quoted":
        opened.press(key)
    assert opened.evaluate(rows % 0) == ["<b>& 'quoted'.jpg"]
    shown = "document.querySelectorAll('#worst figure').length"
    assert opened.evaluate(shown) == 20
    assert "(no picture)" in opened.text("#worst")
    boxes = "document.querySelectorAll('#worst rect[stroke=\"#35e0a8\"]').length"
    before = opened.evaluate(boxes)
    opened.click("#threshold")
    opened.press("End")
    assert 0 == opened.evaluate(boxes) < before


def test_nothing_in_the_data_runs_and_everything_can_be_read(browser, report):
    opened = browser.open(report)
    assert "</script><img" in opened.text("#classes")
    assert opened.evaluate("document.querySelectorAll('img').length") == 0
    assert opened.unnamed_controls() == []
    assert opened.evaluate(FAINT) == []
    opened.resize((360, 740), mobile=True)
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    assert opened.errors == []


def test_a_page_of_too_many_detections_has_the_best(browser, case, monkeypatch, tmp_path):
    truth, results, evaluation = case
    monkeypatch.setattr(page, "MOST_DETECTIONS", 30)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(results))
    write_report(Source(tmp_path / "truth.json", tmp_path / "found.json"), tmp_path)
    opened = browser.open(tmp_path / "report.html")
    lowest = evaluation.data.detections.score[evaluation.counted][29]
    assert f"a score of {lowest:.4f} or more" in opened.text("#source")
    assert opened.evaluate("FOUND.cls.length") == 30
    assert opened.errors == []


@pytest.mark.parametrize("lacking", ["annotations", "results"])
def test_a_page_of_nothing(lacking, browser, case, tmp_path):
    truth, results, _ = case
    if lacking == "annotations":
        truth = {**truth, "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps([] if lacking == "results" else results))
    write_report(Source(tmp_path / "truth.json", tmp_path / "found.json"), tmp_path)
    opened = browser.open(tmp_path / "report.html")
    opened.click("#pick-0")
    opened.click("#threshold")
    opened.press("ArrowRight")
    assert "No object is found" in opened.text("#verdict")
    assert opened.errors == []


def test_many_classes_are_listed_by_their_confusions(browser, tmp_path):
    truth, results = generate(0, num_images=40, num_classes=30)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(results))
    write_report(Source(tmp_path / "truth.json", tmp_path / "found.json"), tmp_path)
    opened = browser.open(tmp_path / "report.html")
    assert opened.evaluate("document.querySelectorAll('#confusion tbody tr').length") == 25
    assert opened.errors == []
