from sap_detr import model_zoo

from .dino_r50 import model

# As small as sam_detr_ms_small, part by part; strides 8, 16 and 32, and 64 from the extra level.
small = model_zoo.get_config("common/models/detr_small.py").model
model.backbone = small.backbone
model.backbone.blocks_per_stage = [1, 3, 1, 1]
model.backbone.out_features = ["res3", "res4", "res5"]
model.neck.in_channels = [96, 192, 384]
model.neck.embed_dim = small.neck.embed_dim
model.neck.norm_groups = small.neck.norm_groups
model.encoder.num_layers = small.encoder.num_layers
model.encoder.ffn_dim = small.encoder.ffn_dim
model.decoder.num_queries = 60
model.decoder.num_layers = small.decoder.num_layers
model.decoder.ffn_dim = small.decoder.ffn_dim
model.denoiser.number = 50
model.postprocessor.num_detections = 100
