from detectron2.config import LazyCall as L

from sap_detr.modeling import build_small_resnet

from .detr_r50 import model

# Small enough to learn small images from scratch on two CPU cores in minutes: features of stride 8,
# because objects there are no larger than one or two cells of stride 16.
model.backbone = L(build_small_resnet)(
    width=48, blocks_per_stage=[1, 3], out_features=["res3"], norm="BN"
)
model.neck.in_features = ["res3"]
model.neck.in_channels = [96]
model.neck.embed_dim = 96
# Nothing is pretrained, so features and position encoding shall start at the same scale.
model.neck.norm_groups = 16
model.encoder.num_layers = 2
model.encoder.ffn_dim = 256
model.encoder.dropout = 0.0
model.decoder.num_queries = 16
model.decoder.num_layers = 3
model.decoder.ffn_dim = 256
model.decoder.dropout = 0.0
