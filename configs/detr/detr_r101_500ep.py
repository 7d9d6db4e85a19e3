from .detr_r50_500ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
# torchvision's ImageNet weights, "IMAGENET1K_V1".
train.init_checkpoint = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
train.output_dir = "output/detr_r101_500ep"
