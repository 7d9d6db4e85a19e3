"""DINO: contrastive denoising, mixed query selection and look forward twice."""

from . import reformulation_savings
from .name_map import DINO

__all__ = ["DINO"]
