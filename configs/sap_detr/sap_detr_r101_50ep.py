from .sap_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
# torchvision's ImageNet weights, "IMAGENET1K_V1".
train.init_checkpoint = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
train.output_dir = "output/sap_detr_r101_50ep"
