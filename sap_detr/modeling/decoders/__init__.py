"""The decoders of the methods that come with the library, and what their layers share."""

from .detr import DetrDecoder, DetrDecoderLayer
from .detr_name_map import DETECTRON2_DETR, DETR
from .dino import DeformableDecoderLayer, DinoDecoder
from .hugging_face_detr_name_map import HUGGING_FACE_DETR, HUGGING_FACE_DETR_RESNET
from .layer import Comparison, LayerMemory, MemoryAttention, PostNormDecoderLayer
from .sap_detr import SapDetrDecoder, SapDetrDecoderLayer
from .sap_detr_name_map import SAP_DETR

__all__ = [
    "DETECTRON2_DETR",
    "DETR",
    "HUGGING_FACE_DETR",
    "HUGGING_FACE_DETR_RESNET",
    "SAP_DETR",
    "Comparison",
    "DeformableDecoderLayer",
    "DetrDecoder",
    "DetrDecoderLayer",
    "DinoDecoder",
    "LayerMemory",
    "MemoryAttention",
    "PostNormDecoderLayer",
    "SapDetrDecoder",
    "SapDetrDecoderLayer",
]
