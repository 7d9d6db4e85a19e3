"""SAM-DETR: queries re-sampled from salient points of the image features."""

from . import reformulation_savings
from .aligner import AlignedQueries, SemanticsAligner
from .decoder import SamDetrDecoder, SamDetrDecoderLayer
from .name_map import SAM_DETR

__all__ = [
    "SAM_DETR",
    "AlignedQueries",
    "SamDetrDecoder",
    "SamDetrDecoderLayer",
    "SemanticsAligner",
]
