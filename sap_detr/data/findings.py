"""Collects what is wrong with a data set: counted by kind, the first ones of each in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from .errors import DatasetError

# Training refuses to start; it starts, but something was repaired or looks wrong; good to know.
Severity = Literal["error", "warning", "note"]

MAX_LISTED_PROBLEMS = 10


@dataclass(frozen=True)
class Example:
    """One thing that is wrong.

    Args:
        where: the item.
        what: what is wrong with it.
        file_names: the images that show it.
        boxes: XYWH in pixels of the first of them, if it is about boxes.
    """

    where: str
    what: str
    file_names: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.what) if part)


@dataclass
class Group:
    """All that is wrong in one way: how often, the first examples, and what to do."""

    kind: str
    severity: Severity
    remedy: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)


class Findings:
    """What is wrong with a data set.

    Args:
        source: what to call the data set in errors.
        max_examples: how many examples of each kind are kept.
    """

    def __init__(self, source: str, max_examples: int = MAX_LISTED_PROBLEMS) -> None:
        self.source = source
        self.max_examples = max_examples
        self.groups: dict[str, Group] = {}

    def add(
        self,
        kind: str,
        example: Example | None = None,
        *,
        severity: Severity = "error",
        remedy: str = "",
        count: int = 1,
    ) -> None:
        """Note something.

        Args:
            kind: what is wrong, in the plural and the same for all cases of it.
            example: this one.
            severity, remedy: of the kind: the first call decides.
            count: how many there are.
        """
        group = self.groups.get(kind)
        if group is None:
            group = self.groups[kind] = Group(kind, severity, remedy)
        group.count += count
        if example is not None and len(group.examples) < self.max_examples:
            group.examples.append(example)

    def counts(self, *severities: Severity) -> Counter[str]:
        """How often each kind of these severities was found."""
        return Counter({g.kind: g.count for g in self.of(*severities)})

    def of(self, *severities: Severity) -> list[Group]:
        """The kinds of these severities, in the order in which they were found."""
        return [g for g in self.groups.values() if g.severity in severities]

    def raise_errors(self) -> None:
        """Raises DatasetError, with the first examples, if there is an error among the findings."""
        errors = self.of("error")
        if not errors:
            return
        total = sum(group.count for group in errors)
        examples = [example for group in errors for example in group.examples]
        lines = [f"{self.source}: {total} problem{'s' if total > 1 else ''} found"]
        shown = examples[:MAX_LISTED_PROBLEMS]
        lines += [f"  - {example}" for example in shown]
        if total > len(shown):
            lines.append(f"  ... and {total - len(shown)} more")
        remedies = dict.fromkeys(group.remedy for group in errors)
        lines += [f"To do: {remedy}" for remedy in remedies if remedy]
        raise DatasetError("\n".join(lines))
