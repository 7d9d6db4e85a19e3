from sap_detr import model_zoo

from .sam_detr_r50 import model

# As small as detr_small, part by part.
_small = model_zoo.get_config("common/models/detr_small.py").model
model.backbone = _small.backbone
model.neck.in_features = _small.neck.in_features
model.neck.in_channels = _small.neck.in_channels
model.neck.embed_dim = _small.neck.embed_dim
model.neck.norm_groups = _small.neck.norm_groups
model.neck.position_encoding.well_conditioned = True
model.encoder.num_layers = _small.encoder.num_layers
model.encoder.ffn_dim = _small.encoder.ffn_dim
model.encoder.dropout = 0.0
model.decoder.num_queries = 16
model.decoder.layer_levels = [0, 0, 0]
model.decoder.ffn_dim = _small.decoder.ffn_dim
model.decoder.dropout = 0.0
model.decoder.gaussian = True
