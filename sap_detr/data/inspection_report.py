"""An inspection in words and as a record for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from .findings import Finding, Findings, Severity
from .inspection import Inspection, Split

_BAR_WIDTH = 30
_MOST_CLASSES = 40
_BLOCKS = " ▏▎▍▌▋▊▉█"
_TITLES: dict[Severity, str] = {
    "error": "Errors: training and evaluation refuse to start",
    "warning": "Warnings",
    "note": "Notes",
}


def exit_code(inspection: Inspection, strict: bool = False) -> int:
    """Return 0 for data that can be used, 2 if it has errors; if strict, 1 for warnings."""
    if _total(inspection, "error"):
        return 2
    return int(strict and _total(inspection, "warning") > 0)


def format_report(inspection: Inspection, num_examples: int = 5) -> str:
    """Return the whole report.

    Args:
        inspection: what was found.
        num_examples: examples that are shown of everything that is wrong.
    """
    parts = [_describe(split) for split in inspection.splits]
    parts += _class_tables(inspection.splits)
    named = [(split.source.name, split.findings) for split in inspection.splits]
    for severity, title in _TITLES.items():
        lines = [
            line
            for name, findings in [*named, ("between the splits", inspection.between)]
            for finding in findings.of(severity)
            for line in _format_finding(name, finding, num_examples)
        ]
        if lines:
            parts.append("\n".join([title, *lines]))
    errors, warnings = _total(inspection, "error"), _total(inspection, "warning")
    wrong = errors or warnings
    parts.append(f"{errors} errors, {warnings} warnings." if wrong else "Nothing is wrong.")
    # Names may hold what no terminal can print.
    return "\n\n".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")


def report_record(inspection: Inspection) -> dict[str, Any]:
    """Return the same as plain values, for json, with up to 1000 examples of each kind."""
    return {
        "errors": _total(inspection, "error"),
        "warnings": _total(inspection, "warning"),
        "splits": [_split_record(split) for split in inspection.splits],
        "between_splits": _findings_record(inspection.between),
    }


def _total(inspection: Inspection, severity: Severity) -> int:
    return sum(f.count for findings in inspection.all_findings() for f in findings.of(severity))


def _describe(split: Split) -> str:
    source = split.source
    lines = [source.name if source.json_file is None else f"{source.name}: {source.json_file}"]
    if source.image_root is not None:
        lines.append(f"  folder    {source.image_root}")
    if not split.dicts:
        return "\n".join([*lines, "  nothing that can be read"])
    counts = split.objects_per_image()
    lines.append(f"  images    {len(counts)}, {counts.count(0)} of them without objects")
    sizes = np.array(split.image_sizes())
    if len(sizes):
        lines.append(f"  width     {_distribution(sizes[:, 0])} pixels")
        lines.append(f"  height    {_distribution(sizes[:, 1])} pixels")
    lines.append(f"  objects   {sum(counts)}, and {split.num_crowd()} crowds")
    lines.append(f"  per image {_distribution(np.array(counts))}")
    return "\n".join(lines)


def _distribution(values: NDArray[Any]) -> str:
    low, middle, high = values.min(), np.median(values), values.max()
    if low == high:
        return f"{low:g}"
    return f"{low:g} to {high:g}, median {middle:g}, 95% up to {np.percentile(values, 95):g}"


def _names(split: Split) -> list[str]:
    """Return the names of the classes, or their indices if they have none."""
    if split.class_names is not None:
        return split.class_names
    return [str(index) for index in range(max(split.class_counts(), default=-1) + 1)]


def _class_tables(splits: Sequence[Split]) -> list[str]:
    """Return objects per class of all splits side by side; several tables if the classes differ."""
    tables: dict[tuple[str, ...], list[Split]] = {}
    for split in splits:
        if split.dicts:
            tables.setdefault(tuple(_names(split)), []).append(split)
    return [_class_table(names, members) for names, members in tables.items()]


def _class_table(names: Sequence[str], splits: Sequence[Split]) -> str:
    counts = [split.class_counts() for split in splits]
    images = splits[0].image_counts()
    order = sorted(range(len(names)), key=lambda index: -counts[0][index])
    most = max(counts[0].values(), default=1)
    rows = [
        [
            names[index] if len(names[index]) <= 30 else f"{names[index][:29]}…",
            *(count[index] for count in counts),
            images[index],
            _bar(counts[0][index] / most),
        ]
        for index in order[:_MOST_CLASSES]
    ]
    headers = ["class", *(split.source.name[-16:] for split in splits), "images", ""]
    aligned = ("left", *["right"] * (len(splits) + 1), "left")
    # Names that are numbers stay as they are.
    table = tabulate(rows, headers, "plain", colalign=aligned, disable_numparse=True)
    lines = [f"{len(names)} classes, objects in each", *table.splitlines()]
    if len(names) > _MOST_CLASSES:
        lines.append(f"... and {len(names) - _MOST_CLASSES} classes with fewer")
    return "\n  ".join(line.rstrip() for line in lines)


def _bar(share: float) -> str:
    """Return a bar of blocks; anything above zero is seen."""
    eighths = max(round(share * _BAR_WIDTH * 8), int(share > 0))
    return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def _format_finding(name: str, finding: Finding, num_examples: int) -> list[str]:
    lines = [f"  {name}: {finding.kind.title}: {finding.count}"]
    shown = finding.examples[:num_examples]
    for example in shown:
        text = str(example).replace("\n", "\n      ")
        lines.append(f"    - {text}")
    if shown and finding.count > len(shown) and len(finding.examples) > len(shown):
        lines.append(f"    ... and {finding.count - len(shown)} more")
    if finding.kind.remedy:
        lines.append(f"    To do: {finding.kind.remedy}")
    return lines


def _split_record(split: Split) -> dict[str, Any]:
    counts, images = split.class_counts(), split.image_counts()
    source = split.source
    sizes = split.image_sizes()
    return {
        "name": source.name,
        "json_file": None if source.json_file is None else str(source.json_file),
        "image_root": None if source.image_root is None else str(source.image_root),
        "images": len(split.dicts),
        "readable_images": len(split.facts),
        "objects": sum(counts.values()),
        "crowds": split.num_crowd(),
        "objects_per_image": _numbers(split.objects_per_image()),
        "width": _numbers([width for width, _ in sizes]),
        "height": _numbers([height for _, height in sizes]),
        "classes": [
            {"name": name, "objects": counts[index], "images": images[index]}
            for index, name in enumerate(_names(split))
        ],
        "findings": _findings_record(split.findings),
    }


def _numbers(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _findings_record(findings: Findings) -> list[dict[str, Any]]:
    return [
        {
            "severity": finding.kind.severity,
            "kind": finding.kind.title,
            "count": finding.count,
            "remedy": finding.kind.remedy,
            "examples": [
                {"where": e.where, "what": e.what, "files": e.file_names, "boxes": e.boxes}
                for e in finding.examples
            ],
        }
        for finding in findings.of()
    ]
