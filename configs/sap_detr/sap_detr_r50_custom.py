from ..common.models.sap_detr_r50 import model
from ..detr.detr_r50_custom import dataloader, dataset, lr_multiplier, optimizer, train

# Like detr_r50_custom: dataset.folder=PATH train.init_checkpoint=FILE.
# 1 ep.
lr_multiplier.warmup_length = 0.02
train.output_dir = "output/sap_detr_r50_custom"
