"""The detector: meta-architecture and the parts it is made of."""

from . import efficientnet_name_map
from .activation_checkpointing import checkpoint_activations
from .backbone import build_resnet, build_small_resnet
from .box_ops import cxcywh_to_xyxy, iou_and_giou, xyxy_to_cxcywh
from .criterion import SetCriterion, layer_keys, object_normalizer
from .decoders import hugging_face_detr_name_map
from .decoders.detr import DetrDecoder, DetrDecoderLayer
from .decoders.detr_name_map import DETR, transformer_pairs
from .decoders.dino import DinoDecoder, TooFewCellsError
from .decoders.layer import Comparison, LayerMemory, MemoryAttention, PostNormDecoderLayer
from .decoders.sap_detr import SapDetrDecoder
from .decoders.sap_detr_name_map import SAP_DETR
from .deformable_encoder import DeformableEncoder
from .denoising import ContrastiveDenoiser, DenoisingQueries
from .encoder import TransformerEncoder
from .losses import (
    CardinalityError,
    ClassError,
    FocalClassLoss,
    GIoULoss,
    L1BoxLoss,
    ObjectnessLoss,
    OutsidePoints,
    SoftmaxClassLoss,
)
from .matcher import (
    FocalClassCost,
    GIoUCost,
    HungarianMatcher,
    L1BoxCost,
    OutsidePointCost,
    SoftmaxClassCost,
)
from .meta_arch import DetectionTransformer
from .named_backbones import NamedBackbone, TimmBackbone, TorchvisionBackbone
from .neck import ProjectionNeck
from .postprocessing import (
    SigmoidTopKPostprocessor,
    SoftmaxPostprocessor,
    without_non_finite,
)
from .reference_points import inverse_sigmoid
from .references import BoxReference, Reference
from .resnet_name_map import torchvision_resnet_pairs
from .structures import (
    FeatureMap,
    Matches,
    Predictions,
    Pyramid,
    Targets,
    padded_image_sizes,
    padding_mask_at,
)

__all__ = [
    "DETR",
    "SAP_DETR",
    "BoxReference",
    "CardinalityError",
    "ClassError",
    "Comparison",
    "ContrastiveDenoiser",
    "DeformableEncoder",
    "DenoisingQueries",
    "DetectionTransformer",
    "DetrDecoder",
    "DetrDecoderLayer",
    "DinoDecoder",
    "FeatureMap",
    "FocalClassCost",
    "FocalClassLoss",
    "GIoUCost",
    "GIoULoss",
    "HungarianMatcher",
    "L1BoxCost",
    "L1BoxLoss",
    "LayerMemory",
    "Matches",
    "MemoryAttention",
    "NamedBackbone",
    "ObjectnessLoss",
    "OutsidePointCost",
    "OutsidePoints",
    "PostNormDecoderLayer",
    "Predictions",
    "ProjectionNeck",
    "Pyramid",
    "Reference",
    "SapDetrDecoder",
    "SetCriterion",
    "SigmoidTopKPostprocessor",
    "SoftmaxClassCost",
    "SoftmaxClassLoss",
    "SoftmaxPostprocessor",
    "Targets",
    "TimmBackbone",
    "TooFewCellsError",
    "TorchvisionBackbone",
    "TransformerEncoder",
    "build_resnet",
    "build_small_resnet",
    "checkpoint_activations",
    "cxcywh_to_xyxy",
    "inverse_sigmoid",
    "iou_and_giou",
    "layer_keys",
    "object_normalizer",
    "padded_image_sizes",
    "padding_mask_at",
    "torchvision_resnet_pairs",
    "transformer_pairs",
    "without_non_finite",
    "xyxy_to_cxcywh",
]
