"""What a model costs: parameters and multiply-adds."""

from .flops import FlopCount, count_detector_flops, count_flops, mean_flops
from .image_sizes import coco_val2017_sizes
from .parameters import ParameterCount, count_parameters, count_parameters_by_part
from .published import count_published_flops, reformulation_savings
from .report import (
    CONVENTION,
    build_without_weights,
    flop_records,
    flop_table,
    parameter_record,
    parameter_table,
    uncounted_note,
)

__all__ = [
    "CONVENTION",
    "FlopCount",
    "ParameterCount",
    "build_without_weights",
    "coco_val2017_sizes",
    "count_detector_flops",
    "count_flops",
    "count_parameters",
    "count_parameters_by_part",
    "count_published_flops",
    "flop_records",
    "flop_table",
    "mean_flops",
    "parameter_record",
    "parameter_table",
    "reformulation_savings",
    "uncounted_note",
]
