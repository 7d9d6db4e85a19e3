from .common.sam_detr_ms_small import model
from .sam_detr_small_custom import dataloader, dataset, lr_multiplier, optimizer, train

model.decoder.num_queries = 42
model.criterion.losses["class"].weight = 10.0
train.output_dir = "output/sam_detr_ms_small_custom"
