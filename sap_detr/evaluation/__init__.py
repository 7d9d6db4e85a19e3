"""What COCOEvaluator does not tell: kinds of error, thresholds, calibration, confusion."""

from .bootstrap import compare
from .dataset import EvaluationData, EvaluationError, evaluation_data
from .error_kinds import KINDS
from .folder import Source, best_thresholds, read_summary, write_report
from .matching import find_pairs, match
from .report import Evaluation, evaluate, summarize

__all__ = [
    "KINDS",
    "Evaluation",
    "EvaluationData",
    "EvaluationError",
    "Source",
    "best_thresholds",
    "compare",
    "evaluate",
    "evaluation_data",
    "find_pairs",
    "match",
    "read_summary",
    "summarize",
    "write_report",
]
