from detectron2.config import LazyCall as L

from sap_detr import model_zoo
from sap_detr.modeling import (
    ClassError,
    ContrastiveDenoiser,
    DeformableEncoder,
    DinoDecoder,
    FocalClassCost,
    FocalClassLoss,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    L1BoxCost,
    L1BoxLoss,
    SetCriterion,
    SigmoidTopKPostprocessor,
)
from sap_detr.projects import dino

model = model_zoo.get_config("common/models/detr_r50.py").model
# Strides 8, 16 and 32, and 64 from an extra level.
model.backbone.out_features = ["res3", "res4", "res5"]
model.neck.in_features = ["res3", "res4", "res5"]
model.neck.in_channels = [512, 1024, 2048]
model.neck.extra_levels = 1
model.neck.norm_groups = 32
model.neck.xavier_init = True
model.neck.position_encoding.temperature = 20.0
model.encoder = L(DeformableEncoder)(
    num_layers=6,
    embed_dim="${..neck.embed_dim}",
    num_heads=8,
    ffn_dim=2048,
    dropout=0.0,
    num_levels=4,
    num_points=4,
)
model.decoder = L(DinoDecoder)(
    num_classes="${..num_classes}",
    num_queries=900,
    num_layers=6,
    embed_dim="${..neck.embed_dim}",
    num_heads=8,
    ffn_dim=2048,
    dropout=0.0,
    num_levels="${..encoder.num_levels}",
    num_points=4,
    temperature=10000.0,
    content="learnt",
    look_forward_twice=True,
    mask_empty_slots=False,
    padding_invariant="${..padding_invariant}",
)
model.denoiser = L(ContrastiveDenoiser)(number=100, label_noise=0.5, box_noise=1.0)
model.criterion = L(SetCriterion)(
    matcher=L(HungarianMatcher)(
        costs=L("builtins.dict")(
            **{
                "class": L(FocalClassCost)(weight=2.0),
                "bbox": L(L1BoxCost)(weight=5.0),
                "giou": L(GIoUCost)(weight=2.0, eps=1e-6),
            }
        )
    ),
    losses=L("builtins.dict")(
        **{
            "class": L(FocalClassLoss)(weight=1.0),
            "bbox": L(L1BoxLoss)(weight=5.0),
            "giou": L(GIoULoss)(weight=2.0, eps=1e-6),
        }
    ),
    metrics=L("builtins.dict")(class_error=L(ClassError)()),
    metric_period=20,
)
model.postprocessor = L(SigmoidTopKPostprocessor)(num_detections=300)
