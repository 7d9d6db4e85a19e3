from .sam_detr_ms_r50 import model as large
from .sam_detr_small import model

# Two coarser levels more.
model.backbone.blocks_per_stage = [1, 3, 1, 1]
model.backbone.out_features = ["res3", "res4", "res5"]
model.neck.in_features = ["res3", "res4", "res5"]
model.neck.in_channels = [96, 192, 384]
model.encoder = large.encoder
model.encoder.num_layers = 2
model.encoder.ffn_dim = 256
model.encoder.dropout = 0.0
model.decoder.layer_levels = [2, 1, 0]
