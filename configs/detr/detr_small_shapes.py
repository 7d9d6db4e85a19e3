from ..common.data.shapes import dataloader, dataset
from ..common.models.detr_small import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier
from ..common.train import train

# 8 ep = 4000 iters * 8 images/iter / 4000 images (500 batches an epoch).
dataloader.train.total_batch_size = 8
train.max_iter = 4000
# 2 ep.
train.checkpointer.period = 1000
# 6.5 ep.
lr_multiplier.scheduler.milestones = [3250]
lr_multiplier.scheduler.num_updates = 4000
lr_multiplier.warmup_length = 100 / 4000

# Nothing is pretrained: one rate for all.
optimizer.lr = 7e-4
optimizer.params.backbone_factor = 1.0
model.criterion.losses["class"].weight = 2.0

train.ema.enabled = True
train.ema.decay = 0.995
train.output_dir = "output/detr_small_shapes"
