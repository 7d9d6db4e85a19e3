from ..common.data.shapes import dataloader, dataset
from ..common.models.detr_small import model
from ..common.optim import optimizer
from ..common.schedule import schedule
from ..common.train import train

# 10 ep = 2500 iters * 16 images/iter / 4000 images.
dataloader.train.total_batch_size = 16
schedule.epochs = 10
# 8 ep = 2000 iters.
schedule.drop_epochs = [8]
schedule.warmup_iters = 100

# Nothing is pretrained: one rate for all, and what an object is takes longest to learn.
optimizer.lr = 7e-4
optimizer.params.backbone_factor = 1.0
model.criterion.losses[0].weight = 2.0

train.ema.enabled = True
train.ema.decay = 0.998
# 500 iters = 2 ep.
train.eval_period = 500
train.checkpointer.period = 500
train.output_dir = "output/detr_small_shapes"
