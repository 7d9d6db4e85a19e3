from detectron2.config import LazyCall as L

from sap_detr.modeling import DeformableEncoder

from .sam_detr_r50 import model

# Strides 8, 16 and 32.
model.backbone.out_features = ["res3", "res4", "res5"]
model.neck.in_features = ["res3", "res4", "res5"]
model.neck.in_channels = [512, 1024, 2048]
model.encoder = L(DeformableEncoder)(
    num_layers=6,
    embed_dim="${..neck.embed_dim}",
    num_heads=8,
    ffn_dim=1024,
    dropout=0.1,
    num_levels=3,
    num_points=4,
)
# From the coarsest to the finest.
model.decoder.layer_levels = [2, 2, 1, 1, 0, 0]
