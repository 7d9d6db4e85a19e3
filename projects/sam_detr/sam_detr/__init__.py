"""SAM-DETR: queries re-sampled from salient points of the image features."""

from . import published_costs
from .aligner import AlignedQueries, SemanticsAligner
from .checkpoint import SAM_DETR
from .decoder import SamDetrDecoder, SamDetrDecoderLayer

__all__ = [
    "SAM_DETR",
    "AlignedQueries",
    "SamDetrDecoder",
    "SamDetrDecoderLayer",
    "SemanticsAligner",
]
