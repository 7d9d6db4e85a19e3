"""The whole check of a data set before it is used: everything odd, counted, with examples."""

from .inspect import Inspection, Source, SplitInspection, inspect_splits
from .report import exit_code, format_report, report_record

__all__ = [
    "Inspection",
    "Source",
    "SplitInspection",
    "exit_code",
    "format_report",
    "inspect_splits",
    "report_record",
]
