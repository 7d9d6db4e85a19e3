from detectron2.config import LazyCall as L

from sap_detr.modeling import (
    ClassError,
    FocalClassCost,
    FocalClassLoss,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    L1BoxCost,
    L1BoxLoss,
    ObjectnessLoss,
    OutsidePointCost,
    OutsidePoints,
    SapDetrDecoder,
    SetCriterion,
    SigmoidTopKPostprocessor,
)

from .detr_r50 import model

model.neck.position_encoding.temperature = 20.0
model.encoder.dropout = 0.0
model.encoder.scale_position = True
model.decoder = L(SapDetrDecoder)(
    num_classes="${..num_classes}",
    # Rows and columns: one query for each of the 306 cells.
    grid_size=[17, 18],
    num_layers=6,
    embed_dim="${..neck.embed_dim}",
    num_heads=8,
    ffn_dim=2048,
    dropout=0.0,
    temperature=20.0,
    gaussian=True,
    gaussian_form="bias",
    content_from_memory=True,
    shared_box_heads=False,
    # More than 1: SAP-Group-DETR, which trains so many groups of queries, on shifted grids.
    num_groups=1,
    shift_groups=True,
    padding_invariant="${..padding_invariant}",
)
model.criterion = L(SetCriterion)(
    matcher=L(HungarianMatcher)(
        costs=L("builtins.dict")(
            **{
                "class": L(FocalClassCost)(weight=2.0, with_objectness=True),
                "bbox": L(L1BoxCost)(weight=5.0, corners=True),
                "giou": L(GIoUCost)(weight=2.0, eps=1e-6),
                "outside": L(OutsidePointCost)(weight=9999.0),
            }
        )
    ),
    losses=L("builtins.dict")(
        **{
            "class": L(FocalClassLoss)(weight=1.0),
            "objectness": L(ObjectnessLoss)(weight=1.0, eps=1e-6),
            "bbox": L(L1BoxLoss)(weight=5.0, corners=True),
            "giou": L(GIoULoss)(weight=2.0, eps=1e-6),
        }
    ),
    metrics=L("builtins.dict")(loss_inner=L(OutsidePoints)(), class_error=L(ClassError)()),
    metric_period=20,
)
model.postprocessor = L(SigmoidTopKPostprocessor)(num_detections=300)
