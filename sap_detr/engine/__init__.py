"""Training: the trainer, its step, hooks and set-up."""

from .ema import EmaHook, ModelEma
from .hooks import BestCheckpoint, ProgressBar
from .optimizer import get_parameter_groups
from .schedule import EpochSchedule
from .setup import build_model, choose_device, prepare_data, setup_run
from .step import StepTrainer
from .trainer import DetectionTrainer, accumulation_steps, yacs_view

__all__ = [
    "BestCheckpoint",
    "DetectionTrainer",
    "EmaHook",
    "EpochSchedule",
    "ModelEma",
    "ProgressBar",
    "StepTrainer",
    "accumulation_steps",
    "build_model",
    "choose_device",
    "get_parameter_groups",
    "prepare_data",
    "setup_run",
    "yacs_view",
]
