from .detr_r101_500ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.dc5 = True
# As published: one image per GPU at a time, because padding costs DC5 accuracy.
train.max_images_per_gpu = 1
train.output_dir = "output/detr_dc5_r101_500ep"
