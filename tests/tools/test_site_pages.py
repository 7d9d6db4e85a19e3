"""The documentation site builds, without a warning and without the network."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from document_blocks import DOCUMENTS, ROOT, blocks
from site_pages import SOURCES, site_link

PAGES = {"training.md", "methods/dino.md", "index.md", "images/points.jpg", "contributing.md"}


@pytest.mark.parametrize(
    ("link", "source", "page", "expected"),
    [
        ("training.md#settings", "docs/costs.md", "costs.md", "training.md#settings"),
        ("docs/training.md", "README.md", "index.md", "training.md"),
        ("../README.md#results", "docs/costs.md", "costs.md", "index.md#results"),
        ("../../README.md", "docs/methods/detr.md", "methods/detr.md", "../index.md"),
        ("../../projects/dino", "docs/methods/detr.md", "methods/detr.md", "dino.md"),
        ("../images/points.jpg", "docs/methods/a.md", "methods/a.md", "../images/points.jpg"),
        ("../CONTRIBUTING.md", "docs/costs.md", "costs.md", "contributing.md"),
        ("https://example.org/a.md", "README.md", "index.md", "https://example.org/a.md"),
        ("#here", "README.md", "index.md", "#here"),
        ("../setup.py", "docs/costs.md", "costs.md", "https://host/x/blob/main/setup.py"),
    ],
)
def test_links_lead_to_pages_or_to_the_repository(link, source, page, expected):
    find = dict.fromkeys(PAGES, True).get
    assert site_link(link, source, page, "https://host/x/", find) == expected


def test_a_file_of_an_unknown_repository_has_no_link():
    assert site_link("../setup.py", "docs/costs.md", "costs.md", "", lambda path: None) is None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs mkdocs, which Python 3.10 gets no pinned one of")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


def test_builds_strictly_with_every_document(site):
    for page in ("index", "training", "methods/sap_detr", "methods/dino", "api/detector"):
        assert (site / f"{page}.html").is_file()
    assert "Detector" in (site / "api/detector.html").read_text(encoding="utf-8")


def test_commands_of_the_pages_are_those_of_the_documents(site):
    sources = {source: page for page, source in SOURCES.items()}
    for document in DOCUMENTS:
        name = document.relative_to(ROOT).as_posix()
        page = site / sources.get(name, name.removeprefix("docs/"))
        found = page.with_suffix(".html").read_text(encoding="utf-8")
        shown = html.unescape(re.sub(r"<[^>]*>", "", found))
        for block in blocks(document):
            for line in block.text.splitlines():
                assert line.strip() in shown, f"{block.place}: {line}"


def test_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link[^>]* rel=\"?stylesheet\"?[^>]*", text)
        assert not [item for item in loaded if "://" in item], page


def test_links_of_the_pages_lead_somewhere(site):
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"<a[^>]* href=\"?([^\" >#]+)", text):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / link).exists(), f"{page.relative_to(site)}: {link}"
