from detectron2.config import LazyCall as L

from sap_detr.layers import SinePositionEncoding
from sap_detr.modeling import (
    CardinalityError,
    ClassError,
    DetectionTransformer,
    DetrDecoder,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    L1BoxCost,
    L1BoxLoss,
    ProjectionNeck,
    SetCriterion,
    SoftmaxClassCost,
    SoftmaxClassLoss,
    SoftmaxPostprocessor,
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
        position_encoding=L(SinePositionEncoding)(embed_dim="${..embed_dim}", temperature=10000.0),
    ),
    encoder=L(TransformerEncoder)(
        num_layers=6, embed_dim="${..neck.embed_dim}", num_heads=8, ffn_dim=2048, dropout=0.1
    ),
    decoder=L(DetrDecoder)(
        num_classes="${..num_classes}",
        num_queries=100,
        num_layers=6,
        embed_dim="${..neck.embed_dim}",
        num_heads=8,
        ffn_dim=2048,
        dropout=0.1,
    ),
    # Terms by name, for changes such as model.criterion.losses.class.weight=2. The dicts are built
    # like all else, because Detectron2 leaves what is in a plain one as it is.
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            costs=L("builtins.dict")(
                **{
                    "class": L(SoftmaxClassCost)(weight=1.0),
                    "bbox": L(L1BoxCost)(weight=5.0),
                    "giou": L(GIoUCost)(weight=2.0),
                }
            )
        ),
        losses=L("builtins.dict")(
            **{
                "class": L(SoftmaxClassLoss)(weight=1.0, no_object_weight=0.1),
                "bbox": L(L1BoxLoss)(weight=5.0),
                "giou": L(GIoULoss)(weight=2.0),
            }
        ),
        metrics=L("builtins.dict")(
            class_error=L(ClassError)(), cardinality_error=L(CardinalityError)()
        ),
        metric_period=20,
    ),
    postprocessor=L(SoftmaxPostprocessor)(),
    # COCO's; training on other data takes the number from there.
    num_classes=80,
    # True: the same predictions however much an image is padded, which is not how it was published.
    padding_invariant=False,
    # More than 1: pad to multiples of so many pixels, which compiled models need.
    size_multiple=1,
)
