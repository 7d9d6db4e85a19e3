"""Whether what the documents point to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sap_detr import model_zoo
from sap_detr.cli import argument_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("projects/*/README.md")]
)


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
    text = document.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    for tool in re.findall(r"\btools/[\w/]+\.\w+", blocks):
        assert (ROOT / tool).is_file(), tool
    for config in re.findall(r"--config-file (\S+\.py)", blocks):
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
    text = document.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "sap-detr " in line]
    return [
        [_PLACEHOLDERS.get(word, word) for word in words[words.index("sap-detr") + 1 :]]
        for words in found
        if "sap-detr" in words
    ]


def test_commands_are_found():
    found = commands(ROOT / "README.md")
    assert ["train", "--config-file"] in [words[:2] for words in found]
