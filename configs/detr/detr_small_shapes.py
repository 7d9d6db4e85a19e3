from ..common.data.shapes import dataloader, dataset
from ..common.models.detr_small import model
from ..common.optim import optimizer
from ..common.schedule import schedule
from ..common.train import train

# 8 ep = 4000 iters * 8 images/iter / 4000 images.
dataloader.train.total_batch_size = 8
schedule.epochs = 8
# 6.5 ep = 3250 iters.
schedule.drop_epochs = [6.5]
schedule.warmup_iters = 100

# Nothing is pretrained: one rate for all.
optimizer.lr = 7e-4
optimizer.params.backbone_factor = 1.0
model.criterion.losses[0].weight = 2.0

train.ema.enabled = True
train.ema.decay = 0.995
# 1000 iters = 2 ep.
train.eval_period = 1000
train.checkpointer.period = 1000
train.output_dir = "output/detr_small_shapes"
