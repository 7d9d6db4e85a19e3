from detectron2.config import LazyCall as L

from sap_detr.layers import SinePositionEncoding
from sap_detr.modeling import (
    ClassError,
    DetectionTransformer,
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
    ProjectionNeck,
    SapDetrDecoder,
    SetCriterion,
    SigmoidTopKPostprocessor,
    TransformerEncoder,
    build_resnet,
)

model = L(DetectionTransformer)(
    backbone=L(build_resnet)(depth=50, dc5=False, out_features=["res5"], norm="FrozenBN"),
    neck=L(ProjectionNeck)(
        in_features=["res5"],
        in_channels=[2048],
        embed_dim=256,
        norm_groups=None,
        padding_invariant="${..padding_invariant}",
        position_encoding=L(SinePositionEncoding)(embed_dim="${..embed_dim}", temperature=20.0),
    ),
    encoder=L(TransformerEncoder)(
        num_layers=6,
        embed_dim="${..neck.embed_dim}",
        num_heads=8,
        ffn_dim=2048,
        dropout=0.0,
        scale_position=True,
    ),
    decoder=L(SapDetrDecoder)(
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
        padding_invariant="${..padding_invariant}",
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            costs=[
                L(FocalClassCost)(weight=2.0, with_objectness=True),
                L(L1BoxCost)(weight=5.0, corners=True),
                L(GIoUCost)(weight=2.0, eps=1e-6),
                L(OutsidePointCost)(weight=9999.0),
            ]
        ),
        losses=[
            L(FocalClassLoss)(weight=1.0),
            L(ObjectnessLoss)(weight=1.0, eps=1e-6),
            L(L1BoxLoss)(weight=5.0, corners=True),
            L(GIoULoss)(weight=2.0, eps=1e-6),
        ],
        metrics=[L(OutsidePoints)(), L(ClassError)()],
        metric_period=20,
    ),
    postprocessor=L(SigmoidTopKPostprocessor)(num_detections=300),
    # None: the number of classes of the training data set.
    num_classes=None,
    # True: the same predictions however much an image is padded, which is not how it was published.
    padding_invariant=False,
    # More than 1: pad to multiples of so many pixels, which compiled models need.
    size_multiple=1,
)
