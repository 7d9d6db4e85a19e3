"""What a model costs: parameters, multiply-adds, time and memory."""

from .building import build_without_weights
from .flops import FlopCount, count_detector_flops, count_flops
from .host_syncs import count_host_syncs
from .image_sizes import coco_val2017_sizes
from .parameters import ParameterCount, count_parameters, count_parameters_by_part
from .published import count_published_flops, reformulation_savings
from .workload import BenchmarkModel, Workload

__all__ = [
    "BenchmarkModel",
    "FlopCount",
    "ParameterCount",
    "Workload",
    "build_without_weights",
    "coco_val2017_sizes",
    "count_detector_flops",
    "count_flops",
    "count_host_syncs",
    "count_parameters",
    "count_parameters_by_part",
    "count_published_flops",
    "reformulation_savings",
]
