"""Files that run elsewhere: torch.export programs, ONNX and OpenVINO, checked against the model."""

from .average_precision import Labels
from .check import (
    LIMITS,
    Difference,
    Example,
    Limits,
    Pair,
    difference,
    generated_images,
    padded,
    run_both,
)
from .deployable import INPUTS, OUTPUTS, Deployable
from .errors import ExportError
from .formats import FORMATS, Format, open_exported
from .metadata import Metadata
from .running import Calibration, Found, Runner
from .runtimes import runtime_record, runtime_report
from .trace import trace

__all__ = [
    "FORMATS",
    "INPUTS",
    "LIMITS",
    "OUTPUTS",
    "Calibration",
    "Deployable",
    "Difference",
    "Example",
    "ExportError",
    "Format",
    "Found",
    "Labels",
    "Limits",
    "Metadata",
    "Pair",
    "Runner",
    "difference",
    "generated_images",
    "open_exported",
    "padded",
    "run_both",
    "runtime_record",
    "runtime_report",
    "trace",
]
