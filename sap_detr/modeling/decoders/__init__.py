"""The decoders of the methods that come with the library, and what their layers share."""

from .detr import DetrDecoder, DetrDecoderLayer
from .layer import PostNormDecoderLayer
from .sap_detr import SapDetrDecoder, SapDetrDecoderLayer

__all__ = [
    "DetrDecoder",
    "DetrDecoderLayer",
    "PostNormDecoderLayer",
    "SapDetrDecoder",
    "SapDetrDecoderLayer",
]
