"""SAP-DINO-DETR: DINO whose queries are SAP-DETR's, a salient point and the sides around it."""

from .decoder import SapDinoDecoder
from .denoising import SalientDenoiser
from .reference import FixedPointReference, SalientReference

__all__ = ["FixedPointReference", "SalientDenoiser", "SalientReference", "SapDinoDecoder"]
