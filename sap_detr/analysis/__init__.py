"""What a model costs: parameters, multiply-adds, time and memory."""

from .building import build_without_weights
from .flops import FlopCount, count_detector_flops, count_flops
from .host_syncs import count_host_syncs
from .image_sizes import coco_val2017_sizes
from .loader_speed import folder_records, loader_record, loader_report
from .memory import MeasureError, memory_record, memory_report
from .operators import profile_record, profile_report
from .parameters import (
    ParameterCount,
    count_parameters,
    count_parameters_by_part,
    parameter_record,
    parameter_table,
)
from .published import (
    CONVENTION,
    count_published_flops,
    flop_records,
    flop_table,
    reformulation_savings,
    uncounted_note,
)
from .reference_body import ReferenceBody
from .speed import speed_record, speed_report
from .tables import describe_machine, machine_line
from .timing import PartTimer
from .workload import BenchmarkModel, Workload, synthetic_batch

__all__ = [
    "CONVENTION",
    "BenchmarkModel",
    "FlopCount",
    "MeasureError",
    "ParameterCount",
    "PartTimer",
    "ReferenceBody",
    "Workload",
    "build_without_weights",
    "coco_val2017_sizes",
    "count_detector_flops",
    "count_flops",
    "count_host_syncs",
    "count_parameters",
    "count_parameters_by_part",
    "count_published_flops",
    "describe_machine",
    "flop_records",
    "flop_table",
    "folder_records",
    "loader_record",
    "loader_report",
    "machine_line",
    "memory_record",
    "memory_report",
    "parameter_record",
    "parameter_table",
    "profile_record",
    "profile_report",
    "reformulation_savings",
    "speed_record",
    "speed_report",
    "synthetic_batch",
    "uncounted_note",
]
