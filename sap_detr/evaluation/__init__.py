"""What COCOEvaluator does not tell: kinds of error, thresholds, calibration, confusion."""

from .bootstrap import compare
from .dataset import EvaluationError
from .folder import Source, best_thresholds, read_summary, write_report
from .report import Evaluation, evaluate, summarize

__all__ = [
    "Evaluation",
    "EvaluationError",
    "Source",
    "best_thresholds",
    "compare",
    "evaluate",
    "read_summary",
    "summarize",
    "write_report",
]
