from ..common.data.shapes import dataloader, dataset
from ..common.models.detr_small import model
from ..common.optim import optimizer
from ..common.schedule import schedule
from ..common.train import train

dataloader.train.total_batch_size = 16
schedule.epochs = 25
schedule.drop_epochs = [20]
schedule.warmup_iters = 100

# Nothing is pretrained: one rate for all.
optimizer.lr = 5e-4
optimizer.params.backbone_factor = 1.0
train.output_dir = "output/detr_small_shapes"
