from sap_detr import model_zoo

from .sap_dino_detr_r50 import model

# As small as dino_small, part by part.
small = model_zoo.get_config("dino/common/dino_small.py").model
model.backbone = small.backbone
model.neck = small.neck
model.encoder = small.encoder
model.decoder.num_queries = small.decoder.num_queries
model.decoder.num_layers = small.decoder.num_layers
model.decoder.ffn_dim = small.decoder.ffn_dim
model.denoiser.number = small.denoiser.number
model.postprocessor.num_detections = small.postprocessor.num_detections
