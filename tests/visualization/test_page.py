"""The page of attention, in a browser: what it shows is what was computed."""

from __future__ import annotations

import numpy as np
import pytest
from browser import Browser, needs_chromium
from small_detectors import CONFIGS, make_predictor

from sap_detr.visualization import ShownModel, ShownPicture, explain, page, write_page
from sap_detr.visualization.page import fixed_point

IMAGES = np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3), dtype=np.uint8)
IDLE = "document.querySelector('#panels').getAttribute('aria-busy') === 'false'"
NAMES = ["cat", None, "</script><b>dog"]


@pytest.fixture(scope="module")
def explanations():
    """For each method what it does with the first image."""
    return {method: explain(make_predictor(method), IMAGES[0], 6) for method in CONFIGS}


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


def shown(found, name="one.jpg"):
    return ShownPicture(name, IMAGES[0], found)


def opened(browser, path, **options):
    page = browser.open(path, **options)
    page.wait_for(IDLE)
    return page


def settle(page, action, *args):
    """Do something, and wait until it is shown."""
    action(*args)
    page.wait_for(IDLE)


def weights_of(found, query, layer, head):
    """The weights that the page is to show, head 0 for the mean."""
    index = found.queries.tolist().index(query)
    if found.attention is not None:
        heads = found.attention[layer][index].reshape(found.attention[layer].shape[1], -1)
        return heads.mean(0) if head == 0 else heads[head - 1]
    samples = found.samples[layer, index, ..., 2]
    return (samples / len(samples)).flatten() if head == 0 else samples[head - 1]


@needs_chromium
@pytest.mark.parametrize("method", CONFIGS)
def test_layers_and_heads_show_weights_that_python_computes(
    method, explanations, browser, tmp_path
):
    found, page_file = explanations[method], tmp_path / "view.html"
    written = write_page([shown([found])], [ShownModel(method, NAMES)], page_file)
    assert written == {"bytes": page_file.stat().st_size, "kept": 6, "left_out": 0}
    page = opened(browser, page_file)
    layers, heads = len(found.boxes), found.self_attention.shape[2]
    second = int(found.queries[1])
    settle(page, page.click, f".detections button[data-query='{second}']")
    assert page.evaluate("viewer.query()") == second
    seen = []
    for layer, head in [(layers, 0), (layers, heads), (1, heads)]:
        for control, value in (("#layer", layer), ("#head", head)):
            page.evaluate(f"document.querySelector('{control}').focus()")
            settle(page, page.press, "Home" if value <= 1 else "End")
        assert page.evaluate("[viewer.state.layer, viewer.state.head]") == [layer - 1, head]
        weights = page.evaluate("viewer.weights()")
        assert sum(weights) == pytest.approx(1, abs=1e-9)
        assert weights == pytest.approx(weights_of(found, second, layer - 1, head), abs=1e-5)
        score = found.scores[layer - 1, second]
        assert f"layer {layer} of {layers}" in page.text(".status")
        assert f"{score:.3f}" in page.text(".status")
        assert "sum of the weights 1.000000" in page.text(".status")
        seen.append(weights)
    assert seen[0] != seen[1] != seen[2]
    settle(page, page.click, ".stage")
    assert page.evaluate("document.querySelectorAll('.looking button').length") == 5
    for box in ("queries", "box"):
        settle(page, page.click, f"input[name={box}]")
    assert page.errors == []
    assert page.requests == [page_file.resolve().as_uri()]
    assert page.unnamed_controls() == []


@needs_chromium
def test_a_place_chooses_the_nearest_query_and_keys_move(explanations, browser, tmp_path):
    found, page_file = explanations["SAP-DETR"], tmp_path / "view.html"
    write_page([shown([found]), shown([found], "two")], [ShownModel("a", NAMES)], page_file)
    page = opened(browser, page_file)
    settle(page, page.click, ".stage")
    points = found.points[-1][found.queries] - 0.5
    nearest = np.hypot(points[:, 0] * 96, points[:, 1] * 64).argmin()
    assert page.evaluate("viewer.query()") == found.queries[nearest]
    at_place = weights_of(found, int(found.queries[nearest]), len(found.boxes) - 1, 0)
    rows, columns = found.attention[-1].shape[-2:]
    middle = at_place.reshape(rows, columns)[rows // 2, columns // 2]
    assert f"has the weight {middle:.5f}" in page.text(".pointer")
    settle(page, page.press, "ArrowLeft")
    settle(page, page.press, "ArrowDown")
    assert page.evaluate("[viewer.state.layer, viewer.state.head]") == [len(found.boxes) - 2, 1]
    settle(page, page.press, "n")
    assert page.evaluate("viewer.query()") in found.detected.tolist()
    assert page.evaluate("document.querySelectorAll('b').length") == 0
    page.evaluate(
        "const choice = document.querySelector('#picture'); choice.value = 1;"
        "choice.dispatchEvent(new Event('change'))"
    )
    page.wait_for(f"viewer.state.picture === 1 && {IDLE}")
    label = page.evaluate("document.querySelector('.stage').getAttribute('aria-label')")
    assert label.startswith("two")
    assert page.errors == []


@needs_chromium
def test_two_models_stand_side_by_side_and_choose_similar_boxes(explanations, browser, tmp_path):
    pair, page_file = [explanations["SAP-DETR"], explanations["DINO"]], tmp_path / "view.html"
    write_page([shown(pair)], [ShownModel("a"), ShownModel("b")], page_file)
    page = opened(browser, page_file)
    first = int(pair[0].queries[2])
    settle(page, page.click, f".detections button[data-query='{first}']")
    query = page.evaluate("viewer.query(1)")
    box, others = pair[0].boxes[-1, first], pair[1].boxes[-1][pair[1].queries]
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod((high - low).clip(0), -1)
    area = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], -1)
    assert query == pair[1].queries[(both / (area - both)).argmax()]
    for index, found in enumerate(pair):
        weights = page.evaluate(f"viewer.weights({index})")
        layer = min(page.evaluate("viewer.state.layer"), len(found.boxes) - 1)
        shown_query = page.evaluate(f"viewer.query({index})")
        assert weights == pytest.approx(weights_of(found, shown_query, layer, 0), abs=1e-5)
    page.resize((360, 740), mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.errors == []


@needs_chromium
def test_what_happens_while_a_picture_is_loaded_waits_for_it(explanations, browser, tmp_path):
    found = [explanations["SAP-DETR"], explanations["DINO"]]
    models = [ShownModel("a", NAMES), ShownModel("b", NAMES)]
    others = [explain(make_predictor(method), IMAGES[1], 6) for method in ("SAP-DETR", "DINO")]
    pictures = [shown(found), ShownPicture("two.jpg", IMAGES[1], others)]
    write_page(pictures, models, tmp_path / "view.html")
    page_text = (tmp_path / "view.html").read_text(encoding="utf-8")
    turned = "start();\nwindow.dispatchEvent(new Event('resize'));"
    assert page_text.count("start();\n") == 1
    (tmp_path / "turned.html").write_text(page_text.replace("start();\n", turned))
    page = opened(browser, tmp_path / "turned.html")
    page.evaluate("[1, 0, 1].map((picture) => { showPicture(picture); refresh(); })")
    page.wait_for(IDLE)
    assert page.evaluate("viewer.state.picture") == 1
    for index, other in enumerate(others):
        query = page.evaluate(f"viewer.query({index})")
        weights = page.evaluate(f"viewer.weights({index})")
        last = len(other.boxes) - 1
        assert weights == pytest.approx(weights_of(other, query, last, 0), abs=1e-5)
    assert page.errors == []


@pytest.mark.parametrize("peak", [1e-9, 1.0, 1e4])
def test_rounded_weights_sum_up_to_one_exactly(peak):
    generator = np.random.default_rng(0)
    weights = generator.random((5, 7, 900)) ** 8
    weights[..., 3] += peak
    weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    whole = fixed_point(weights)
    assert (whole.sum(-1) == 2**24 - 1).all()
    assert whole / (2**24 - 1) == pytest.approx(weights, abs=2e-7)


def test_what_does_not_fit_is_left_out_and_said(explanations, tmp_path, monkeypatch):
    found, models = explanations["SAP-DETR"], [ShownModel("a")]
    pictures = [shown([found]), shown([found], "two")]
    whole = write_page(pictures, models, tmp_path / "whole.html")
    most = whole["bytes"] * 7 // 10
    monkeypatch.setattr(page, "MOST_BYTES", most)
    less = write_page(pictures, models, tmp_path / "less.html")
    assert 0.9 * most < less["bytes"] <= most
    assert less["kept"] + less["left_out"] == whole["kept"] == 12
    assert f"for {less['left_out']} there was no room" in (tmp_path / "less.html").read_text()
    monkeypatch.setattr(page, "MOST_BYTES", 30_000)
    with pytest.raises(ValueError, match="2 pictures do not fit"):
        write_page(pictures, models, tmp_path / "no.html")
    assert not (tmp_path / "no.html").exists()


def test_mistakes_are_told(explanations, tmp_path):
    found = explanations["DETR"]
    with pytest.raises(ValueError, match="at least one picture"):
        write_page([], [ShownModel("a")], tmp_path / "x.html")
    models = [ShownModel("a"), ShownModel("b")]
    with pytest.raises(ValueError, match="one has 1 explanations, the page has 2 models"):
        write_page([shown([found], "one")], models, tmp_path / "x.html")
