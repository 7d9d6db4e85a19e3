from .sap_detr_convnext_t_50ep import dataloader, lr_multiplier, model, optimizer, train

# Patches of 14 pixels: four times the cells of stride 32 and more.
model.backbone.name = "vit_small_patch14_dinov2"
model.backbone.strides = [14]
# Its features have a norm of their own.
model.neck.norm_groups = None

train.init_checkpoint = "timm://vit_small_patch14_dinov2.lvd142m"
train.output_dir = "output/sap_detr_dinov2_s_50ep"
