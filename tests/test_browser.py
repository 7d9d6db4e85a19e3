"""The driver of Chromium sees what other tests rely on: clicks, keys, errors, requests, names."""

from __future__ import annotations

import pytest
from browser import Browser, needs_chromium
from PIL import Image

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Page</title>
<body style="margin:0"><div style="height:3000px">top</div>
<button id="good" onclick="this.innerText = 'clicked'">press</button>
<button id="bad" onclick="missing()"></button>
<input id="slider" type="range" aria-label="threshold" min="0" max="10" value="3">
<img src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7" alt="dot">
"""


@needs_chromium
def test_a_page_is_clicked_read_and_drawn(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(PAGE)
    with Browser() as browser:
        page = browser.open(path, (400, 300))
        assert page.text("#good") == "press"
        page.click("#good")
        assert page.text("#good") == "clicked"
        page.click("#slider")
        assert page.evaluate("document.activeElement.id") == "slider"
        page.evaluate("document.getElementById('slider').value = 3")
        page.press("ArrowRight")
        assert page.evaluate("document.getElementById('slider').value") == "4"
        assert (page.errors, page.requests) == ([], [path.as_uri()])
        page.click("#bad")
        page.evaluate("console.error('told', 1)")
        page.evaluate("new Promise(done => setTimeout(done, 1))")
        assert [error.split("\n")[0] for error in page.errors] == [
            "ReferenceError: missing is not defined",
            "told 1",
        ]
        assert page.unnamed_controls() == ["button"]
        with pytest.raises(AssertionError, match="SyntaxError"):
            page.evaluate("1 +")
        with Image.open(page.screenshot(tmp_path / "whole.png")) as picture:
            assert picture.width == 400
            assert picture.height > 3000
        page.resize((320, 200), mobile=True)
        assert page.evaluate("innerWidth") == 980  # there is no <meta name=viewport>
        page.evaluate("fetch('http://localhost:9/nothing').catch(() => 0)")
        assert page.requests[1:] == ["http://localhost:9/nothing"]
