from .common.sam_detr_ms_small import model
from .sam_detr_small_shapes import dataloader, dataset, lr_multiplier, optimizer, train

model.criterion.losses["class"].weight = 10.0
train.output_dir = "output/sam_detr_ms_small_shapes"
