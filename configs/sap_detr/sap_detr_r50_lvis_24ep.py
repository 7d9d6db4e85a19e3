from ..common.data.lvis_v1 import dataloader
from .sap_detr_r50_50ep import lr_multiplier, model, optimizer, train

# 24 ep = 150240 iters * 16 images/iter / 100170 images (6260 whole batches an epoch). Nobody has
# published or trained it; images are not repeated by the rarity of their classes.
dataloader.train.total_batch_size = 16
train.max_iter = 150240
train.checkpointer.period = 6260
lr_multiplier.scheduler.milestones = [20]
lr_multiplier.scheduler.num_updates = 24
lr_multiplier.warmup_length = 1000 / 150240
train.output_dir = "output/sap_detr_r50_lvis_24ep"
