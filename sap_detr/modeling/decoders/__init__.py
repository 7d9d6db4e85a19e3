"""The decoders of the methods that come with the library, and what their layers share."""

from .detr import DetrDecoder, DetrDecoderLayer
from .layer import LayerMemory, MemoryAttention, PostNormDecoderLayer
from .sap_detr import SapDetrDecoder, SapDetrDecoderLayer

__all__ = [
    "DetrDecoder",
    "DetrDecoderLayer",
    "LayerMemory",
    "MemoryAttention",
    "PostNormDecoderLayer",
    "SapDetrDecoder",
    "SapDetrDecoderLayer",
]
