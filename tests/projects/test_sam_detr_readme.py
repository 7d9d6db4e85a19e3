"""What SAM-DETR's README says of published models and of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from sap_detr import model_zoo
from sap_detr.projects.sam_detr.aligner import without_pooling
from sap_detr.projects.sam_detr.training_curves import published_table, read_published

README = Path(__file__).parents[2] / "projects" / "sam_detr" / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table() -> str:
    return published_table()


def test_table_is_what_the_logs_end_with(text, table):
    assert f"\n\n{table}\n\n" in text


def test_table_rows(table):
    """Beside the code that makes it: one row, with its parameters, by hand."""
    lines = table.splitlines()
    assert len(lines) == 2 + 12
    rows = {}
    for line in lines[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[re.fullmatch(r"\[(\w+)\]\(configs/\1\.py\)", name)[1]] = cells
    assert list(rows) == list(read_published())
    assert rows["sam_detr_ms_r50_smca_50ep"] == [
        *["50", "47.1", "65.9", "50.9", "29.4", "50.4", "63.4"],
        "55,243,946 (55,021,546)",
    ]


def test_links_lead_somewhere(text):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 12
    for link in links:
        assert (README.parent / link.partition("#")[0]).exists(), link
    picture = README.parent / re.search(r"!\[[^]]*\]\(([^)]+)\)", text)[1]
    assert Image.open(picture).width == 1600


def test_commands_name_configs_and_keys_that_exist(text):
    configs = set(re.findall(r"--config-file (\S+)", text))
    assert configs
    for name in configs:
        cfg = model_zoo.get_config(name)
        for key in re.findall(r"`(model\.[\w.]+)`", text):
            parent, _, last = key.rpartition(".")
            node = cfg
            for part in parent.split("."):
                node = node[part]
            assert last in node, key


def test_rows_with_group_normalisation_are_as_told(text):
    without = {
        name
        for name in read_published()
        if model_zoo.get_config(f"sam_detr/{name}.py").model.neck.norm_groups is None
    }
    assert without == {
        f"sam_detr_{variant}_50ep" for variant in ("r50", "r50_smca", "dc5_r50", "dc5_r50_smca")
    }
    assert "the four single-scale ones of 50 epochs have none" in " ".join(text.split())


def test_limit_of_the_early_convolution(text):
    limit = int(re.search(r"on maps of up to (\d+)\s+cells", text)[1])
    assert without_pooling(limit, 300, 256)
    assert not without_pooling(limit + 1, 300, 256)
