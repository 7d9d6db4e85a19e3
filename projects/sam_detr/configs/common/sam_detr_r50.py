from detectron2.config import LazyCall as L

from sap_detr import model_zoo
from sap_detr.modeling import (
    CardinalityError,
    ClassError,
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
from sap_detr.projects.sam_detr import SamDetrDecoder

# Backbone, neck and encoder of DETR.
model = model_zoo.get_config("common/models/detr_r50.py").model
model.neck.position_encoding.cell_centres = True
# True is not for published weights: it changes what queries read from padding.
model.neck.position_encoding.well_conditioned = False
# The published models of 12 epochs and of several levels have a group normalisation here, the
# others none.
model.neck.norm_groups = 32
model.decoder = L(SamDetrDecoder)(
    num_classes="${..num_classes}",
    num_queries=300,
    # The level that each of the six layers reads.
    layer_levels=[0, 0, 0, 0, 0, 0],
    embed_dim="${..neck.embed_dim}",
    num_heads=8,
    ffn_dim=2048,
    dropout=0.1,
    temperature=10000.0,
    # SMCA.
    gaussian=False,
    gaussian_form="bias",
)
model.criterion = L(SetCriterion)(
    matcher=L(HungarianMatcher)(
        costs=L("builtins.dict")(
            **{
                "class": L(FocalClassCost)(weight=2.0),
                "bbox": L(L1BoxCost)(weight=5.0),
                "giou": L(GIoUCost)(weight=2.0),
            }
        )
    ),
    losses=L("builtins.dict")(
        **{
            "class": L(FocalClassLoss)(weight=2.0),
            "bbox": L(L1BoxLoss)(weight=5.0),
            "giou": L(GIoULoss)(weight=2.0),
        }
    ),
    metrics=L("builtins.dict")(
        class_error=L(ClassError)(), cardinality_error=L(CardinalityError)()
    ),
    metric_period=20,
)
model.postprocessor = L(SigmoidTopKPostprocessor)(num_detections=100)
