from detectron2.config import LazyCall as L

from sap_detr.modeling import build_small_resnet

from .detr_r50 import model

# Small enough to learn from scratch on two CPU cores in minutes.
model.backbone = L(build_small_resnet)(
    width=32, blocks_per_stage=[1, 1, 1], out_features=["res4"], norm="BN"
)
model.neck.in_features = ["res4"]
model.neck.in_channels = [128]
model.neck.embed_dim = 128
model.encoder.num_layers = 2
model.encoder.ffn_dim = 256
model.encoder.dropout = 0.0
model.decoder.num_queries = 25
model.decoder.num_layers = 3
model.decoder.ffn_dim = 256
model.decoder.dropout = 0.0
