"""Training: the trainer, its step, hooks and set-up."""

from ..config import prepare_data
from .ema import ModelEma
from .finite_detections import NonFiniteDetectionsError
from .hooks import BestCheckpoint, ProgressBar
from .launch import ProcessOptions, launch
from .model_description import ModelDescription
from .optimizer import get_parameter_groups
from .preemption import PREEMPTED_STATUS, Preempted, PreemptionHook, StopSignals
from .schedule import fill_in_length
from .setup import build_model, choose_device, setup_run
from .step import StepTrainer
from .topology import Topology, find_topology
from .trainer import DetectionTrainer, accumulation_steps

__all__ = [
    "PREEMPTED_STATUS",
    "BestCheckpoint",
    "DetectionTrainer",
    "ModelDescription",
    "ModelEma",
    "NonFiniteDetectionsError",
    "Preempted",
    "PreemptionHook",
    "ProcessOptions",
    "ProgressBar",
    "StepTrainer",
    "StopSignals",
    "Topology",
    "accumulation_steps",
    "build_model",
    "choose_device",
    "fill_in_length",
    "find_topology",
    "get_parameter_groups",
    "launch",
    "prepare_data",
    "setup_run",
]
