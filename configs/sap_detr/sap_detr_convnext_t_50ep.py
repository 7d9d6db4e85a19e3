from detectron2.config import LazyCall as L

from sap_detr.modeling import TimmBackbone

from .sap_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

# Ours: a modern backbone under SAP-DETR, without published numbers.
model.backbone = L(TimmBackbone)(name="convnext_tiny", strides=[32], drop_path=0.1)
model.neck.in_features = model.neck.in_channels = None
# These features come without a norm.
model.neck.norm_groups = 32
# Each layer of the backbone at 0.8 of the rate of the next one.
optimizer.params.backbone_decay = 0.8

train.init_checkpoint = "timm://convnext_tiny.fb_in1k"
train.output_dir = "output/sap_detr_convnext_t_50ep"
