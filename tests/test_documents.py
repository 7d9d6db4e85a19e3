"""Whether what the documents point to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from document_blocks import DOCUMENTS, ROOT, blocks

from sap_detr import model_zoo
from sap_detr.cli import argument_parser


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_what_exists(document):
    text = "\n".join(lines(document))
    for tool in re.findall(r"\btools/[\w/]+\.\w+", text):
        assert (ROOT / tool).is_file(), tool
    for config in re.findall(r"--config-file (\S+\.py)", text):
        model_zoo.get_config(config)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


# Where a name stands for what only its reader has.
_PLACEHOLDERS = {"I/N": "1/2", "$SLURM_ARRAY_TASK_ID/100": "1/100", "$TASK/100": "1/100"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_ours_has_the_options_that_it_is_given(document):
    for words in commands(document):
        if not {"-h", "--help"} & set(words):
            assert argument_parser().parse_args(words).command == words[0]


def commands(document: Path) -> list[list[str]]:
    """What follows `sap-detr` in the commands of a document."""
    found = [shlex.split(line, comments=True) for line in lines(document)]
    return [
        [_PLACEHOLDERS.get(word, word) for word in words[words.index("sap-detr") + 1 :]]
        for words in found
        if "sap-detr" in words
    ]


def lines(document: Path) -> list[str]:
    return [line for b in blocks(document) if b.language == "bash" for line in b.lines()]


def test_commands_are_found():
    found = commands(ROOT / "README.md")
    assert ["train", "--config-file"] in [words[:2] for words in found]
