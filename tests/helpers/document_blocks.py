"""Blocks of commands and of Python in the documents, each with the reason if it is not run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("projects/*/README.md")]
)
MARK = "<!-- not run: "
_BLOCK = re.compile(
    rf"^(?: *{MARK}(?P<reason>\S[^\n]*) -->\n)?(?P<indent> *)```(?P<language>bash|python)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of a document; `place` is where it starts, for messages."""

    place: str
    language: str
    text: str
    reason: str | None

    def lines(self) -> list[str]:
        """The commands, one a line."""
        return [
            line.strip()
            for line in self.text.replace("\\\n", " ").splitlines()
            if shlex.split(line, comments=True)
        ]


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(
            place=f"{document.relative_to(ROOT)}:{text.count(chr(10), 0, match.end('indent')) + 1}",
            language=match["language"],
            text=match["text"],
            reason=match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]
