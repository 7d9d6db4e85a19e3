from detectron2.config import LazyCall as L

from sap_detr.modeling import TimmBackbone

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

# Ours: another backbone, without published numbers.
model.backbone = L(TimmBackbone)(
    name="swin_tiny_patch4_window7_224", strides=[8, 16, 32], drop_path=0.1
)
model.neck.in_features = model.neck.in_channels = None
optimizer.params.backbone_decay = 0.8

train.init_checkpoint = "timm://swin_tiny_patch4_window7_224.ms_in1k"
train.output_dir = "output/dino_swin_t_4scale_12ep"
