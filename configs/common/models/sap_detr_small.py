from .detr_small import model as small
from .sap_detr_r50 import model

# As small as detr_small, part by part.
model.backbone = small.backbone
model.neck.in_features = small.neck.in_features
model.neck.in_channels = small.neck.in_channels
model.neck.embed_dim = small.neck.embed_dim
model.neck.norm_groups = small.neck.norm_groups
model.encoder.num_layers = small.encoder.num_layers
model.encoder.ffn_dim = small.encoder.ffn_dim
model.decoder.grid_size = [4, 4]
model.decoder.num_layers = small.decoder.num_layers
model.decoder.ffn_dim = small.decoder.ffn_dim
model.postprocessor.num_detections = 100
