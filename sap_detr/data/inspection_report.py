"""An inspection as a record for scripts, and that record in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from .findings import Findings, Severity
from .inspection import Inspection, Split
from .standard_dict import objects

Record = dict[str, Any]

_BAR_WIDTH = 30
_BLOCKS = " ▏▎▍▌▋▊▉█"
_MOST_CLASSES = 40
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


def report_record(inspection: Inspection) -> Record:
    """Return everything as plain values, for json, with up to 1000 examples of each kind."""
    return {
        "errors": _total(inspection, "error"),
        "warnings": _total(inspection, "warning"),
        "splits": [_split_record(split) for split in inspection.splits],
        "between_splits": _findings_record(inspection.between),
    }


def _total(inspection: Inspection, severity: Severity) -> int:
    return sum(f.count for findings in inspection.all_findings() for f in findings.of(severity))


def _split_record(split: Split) -> Record:
    source, sizes = split.source, [facts.upright_size for facts in split.facts.values()]
    classes = [[a["category_id"] for a in objects(record)] for record in split.dicts]
    counts, images = split.class_counts(), Counter(c for found in classes for c in set(found))
    annotations = sum(len(record.get("annotations", ())) for record in split.dicts)
    names = split.class_names
    if names is None:
        names = [str(index) for index in range(max(counts, default=-1) + 1)]
    return {
        "name": source.name,
        "format": None if source.files is None else source.files.format,
        "annotations": None if source.path is None else str(source.path),
        "image_root": None if source.image_root is None else str(source.image_root),
        "images": len(split.dicts),
        "images_without_objects": classes.count([]),
        "readable_images": len(split.facts),
        "objects": counts.total(),
        "crowds": annotations - counts.total(),
        "objects_per_image": _distribution([len(found) for found in classes]),
        "width": _distribution([width for width, _ in sizes]),
        "height": _distribution([height for _, height in sizes]),
        "classes": [
            {"name": name, "objects": counts[index], "images": images[index]}
            for index, name in enumerate(names)
        ],
        "findings": _findings_record(split.findings),
    }


def _distribution(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    most = float(np.percentile(values, 95))
    return {"min": min(values), "median": float(np.median(values)), "95%": most, "max": max(values)}


def _findings_record(findings: Findings) -> list[Record]:
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


def format_report(record: Record, num_examples: int = 5) -> str:
    """Return a report in words.

    Args:
        record: as ``report_record`` returns it.
        num_examples: examples that are shown of everything that is wrong.
    """
    splits = record["splits"]
    found = [(split["name"], finding) for split in splits for finding in split["findings"]]
    found += [("between the splits", finding) for finding in record["between_splits"]]
    parts = [*map(_describe, splits), *_class_table([split for split in splits if split["images"]])]
    for severity, title in _TITLES.items():
        texts = [
            _format_finding(name, finding, num_examples)
            for name, finding in found
            if finding["severity"] == severity
        ]
        if texts:
            parts.append("\n".join([title, *texts]))
    wrong = record["errors"] or record["warnings"]
    counts = f"{record['errors']} errors, {record['warnings']} warnings."
    parts.append(counts if wrong else "Nothing is wrong.")
    # Names may hold what no terminal can print.
    return "\n\n".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")


def _describe(split: Record) -> str:
    where = f": {split['annotations']} ({split['format']})" if split["format"] else ""
    lines = [split["name"] + where]
    if split["image_root"] is not None:
        lines.append(f"  folder    {split['image_root']}")
    if not split["images"]:
        return "\n".join([*lines, "  nothing that can be read"])
    empty = split["images_without_objects"]
    lines.append(f"  images    {split['images']}, {empty} of them without objects")
    if split["width"] is not None:
        lines.append(f"  width     {_range(split['width'])} pixels")
        lines.append(f"  height    {_range(split['height'])} pixels")
    lines.append(f"  objects   {split['objects']}, and {split['crowds']} crowds")
    lines.append(f"  per image {_range(split['objects_per_image'])}")
    return "\n".join(lines)


def _range(values: dict[str, float]) -> str:
    low, middle, most, high = (values[key] for key in ("min", "median", "95%", "max"))
    if low == high:
        return f"{low:g}"
    return f"{low:g} to {high:g}, median {middle:g}, 95% up to {most:g}"


def _class_table(splits: Sequence[Record]) -> list[str]:
    """Return objects per class of the splits side by side; other classes than the first's: none."""
    names = [[each["name"] for each in split["classes"]] for split in splits]
    splits = [split for split, of_split in zip(splits, names, strict=True) if of_split == names[0]]
    rows = sorted(
        zip(*(split["classes"] for split in splits), strict=True), key=lambda r: -r[0]["objects"]
    )
    if not rows:
        return []
    most = max(rows[0][0]["objects"], 1)
    cells = [
        [
            row[0]["name"] if len(row[0]["name"]) <= 30 else f"{row[0]['name'][:29]}…",
            *(of_split["objects"] for of_split in row),
            row[0]["images"],
            _bar(row[0]["objects"] / most),
        ]
        for row in rows[:_MOST_CLASSES]
    ]
    headers = ["class", *(split["name"][-16:] for split in splits), "images", ""]
    aligned = ("left", *["right"] * (len(splits) + 1), "left")
    # Names that are numbers stay as they are.
    table = tabulate(cells, headers, "plain", colalign=aligned, disable_numparse=True)
    lines = [f"{len(rows)} classes, objects in each", *table.splitlines()]
    if len(rows) > _MOST_CLASSES:
        lines.append(f"... and {len(rows) - _MOST_CLASSES} classes with fewer")
    return ["\n  ".join(line.rstrip() for line in lines)]


def _bar(share: float) -> str:
    """Return a bar of blocks; anything above zero is seen."""
    eighths = max(round(share * _BAR_WIDTH * 8), int(share > 0))
    return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def _format_finding(name: str, finding: Record, num_examples: int) -> str:
    lines = [f"{name}: {finding['kind']}: {finding['count']}"]
    shown = finding["examples"][:num_examples]
    for example in shown:
        text = ": ".join(part for part in (example["where"], example["what"]) if part)
        lines.append("  - " + text.replace("\n", "\n    "))
    if len(finding["examples"]) > len(shown):
        lines.append(f"  ... and {finding['count'] - len(shown)} more")
    if finding["remedy"]:
        lines.append(f"  To do: {finding['remedy']}")
    return "  " + "\n".join(lines).replace("\n", "\n  ")
