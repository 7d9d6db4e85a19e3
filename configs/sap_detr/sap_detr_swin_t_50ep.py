from .sap_detr_convnext_t_50ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.name = "swin_tiny_patch4_window7_224"

train.init_checkpoint = "timm://swin_tiny_patch4_window7_224.ms_in1k"
train.output_dir = "output/sap_detr_swin_t_50ep"
