"""An inspection in words and as a record for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..findings import Findings, Group
from .inspect import Inspection, SplitInspection

_BAR_WIDTH = 30
_MOST_CLASSES = 40
_BLOCKS = " ▏▎▍▌▋▊▉█"
_TITLES = {"error": "Errors: training refuses to start", "warning": "Warnings", "note": "Notes"}


def exit_code(inspection: Inspection, strict: bool = False) -> int:
    """0 for a data set that can be trained on, 2 for one with errors; if strict, 1 for warnings."""
    findings = inspection.all_findings()
    if any(f.of("error") for f in findings):
        return 2
    return int(strict and any(f.of("warning") for f in findings))


def format_report(inspection: Inspection, num_examples: int = 5) -> str:
    """The whole report.

    Args:
        inspection: what was found.
        num_examples: examples that are shown of everything that is wrong.
    """
    parts = [_describe(split) for split in inspection.splits]
    parts += _class_tables(inspection.splits)
    for severity, title in _TITLES.items():
        lines = [
            line
            for findings in inspection.all_findings()
            for group in findings.groups.values()
            if group.severity == severity
            for line in _format_group(findings, group, num_examples)
        ]
        if lines:
            parts.append("\n".join([title, *lines]))
    parts.append(_verdict(inspection))
    # Names may hold what no terminal can print.
    return "\n\n".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")


def report_record(inspection: Inspection) -> dict[str, Any]:
    """The same as plain values, for json, with up to 1000 examples of each kind."""
    return {
        "errors": _total(inspection, "error"),
        "warnings": _total(inspection, "warning"),
        "splits": [_split_record(split) for split in inspection.splits],
        "between_splits": _findings_record(inspection.findings),
    }


def _describe(split: SplitInspection) -> str:
    source = split.source
    lines = [source.name if source.json_file is None else f"{source.name}: {source.json_file}"]
    if source.image_root is not None:
        lines.append(f"  folder    {source.image_root}")
    if not split.dicts:
        return "\n".join([*lines, "  nothing that can be read"])
    counts = split.objects_per_image()
    empty = sum(count == 0 for count in counts)
    lines.append(f"  images    {len(counts)}, {empty} of them without objects")
    sizes = np.array(split.image_sizes())
    if len(sizes):
        for label, values in (("width", sizes[:, 0]), ("height", sizes[:, 1])):
            lines.append(f"  {label:<10}{_distribution(values)} pixels")
    lines.append(f"  objects   {sum(counts)}, and {split.num_crowd()} crowds")
    lines.append(f"  per image {_distribution(np.array(counts))}")
    return "\n".join(lines)


def _distribution(values: np.ndarray) -> str:
    low, middle, high = values.min(), np.median(values), values.max()
    if low == high:
        return f"{low:g}"
    return f"{low:g} to {high:g}, median {middle:g}, 95% up to {np.percentile(values, 95):g}"


def _class_tables(splits: Sequence[SplitInspection]) -> list[str]:
    """Objects per class of all splits side by side; several tables if the classes differ."""
    tables: dict[tuple[str, ...], list[SplitInspection]] = {}
    for split in splits:
        if split.dicts:
            names = split.class_names
            if names is None:
                names = [str(i) for i in range(max(split.class_counts(), default=-1) + 1)]
            tables.setdefault(tuple(names), []).append(split)
    return [_class_table(names, members) for names, members in tables.items()]


def _class_table(names: Sequence[str], splits: Sequence[SplitInspection]) -> str:
    counts = [split.class_counts() for split in splits]
    images = splits[0].image_counts()
    order = sorted(range(len(names)), key=lambda index: -counts[0][index])
    most = max(counts[0].values(), default=1)
    width = min(30, max([len(name) for name in names] + [5]))
    heads = [split.source.name[-16:] for split in splits]
    columns = [max(9, len(head)) for head in heads]
    title = "  ".join(f"{head:>{n}}" for head, n in zip(heads, columns, strict=True))
    lines = [
        f"{len(names)} classes, objects in each",
        f"  {'class':<{width}}  {title}  {'images':>9}  ",
    ]
    for index in order[:_MOST_CLASSES]:
        cells = "  ".join(f"{c[index]:>{n}}" for c, n in zip(counts, columns, strict=True))
        bar = _bar(counts[0][index] / most)
        name = names[index] if len(names[index]) <= width else names[index][: width - 1] + "…"
        lines.append(f"  {name:<{width}}  {cells}  {images[index]:>9}  {bar}".rstrip())
    if len(names) > _MOST_CLASSES:
        lines.append(f"  ... and {len(names) - _MOST_CLASSES} classes with fewer")
    return "\n".join(lines)


def _bar(share: float) -> str:
    """A bar of blocks; anything above zero is seen."""
    eighths = max(round(share * _BAR_WIDTH * 8), int(share > 0))
    return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def _format_group(findings: Findings, group: Group, num_examples: int) -> list[str]:
    lines = [f"  {findings.source}: {group.kind}: {group.count}"]
    shown = group.examples[:num_examples]
    for example in shown:
        text = str(example).replace("\n", "\n      ")
        lines.append(f"    - {text}")
    if shown and group.count > len(shown) and group.examples[0].where:
        lines.append(f"    ... and {group.count - len(shown)} more")
    if group.remedy:
        lines.append(f"    To do: {group.remedy}")
    return lines


def _verdict(inspection: Inspection) -> str:
    errors, warnings = _total(inspection, "error"), _total(inspection, "warning")
    if not errors and not warnings:
        return "Nothing is wrong."
    return f"{errors} errors, {warnings} warnings."


def _total(inspection: Inspection, severity: Any) -> int:
    return sum(sum(f.counts(severity).values()) for f in inspection.all_findings())


def _split_record(split: SplitInspection) -> dict[str, Any]:
    counts, images = split.class_counts(), split.image_counts()
    names = split.class_names
    if names is None:
        names = [str(i) for i in range(max(counts, default=-1) + 1)]
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
            for index, name in enumerate(names)
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
            "severity": group.severity,
            "kind": group.kind,
            "count": group.count,
            "remedy": group.remedy,
            "examples": [
                {"where": e.where, "what": e.what, "files": e.file_names, "boxes": e.boxes}
                for e in group.examples
            ],
        }
        for group in findings.groups.values()
    ]
