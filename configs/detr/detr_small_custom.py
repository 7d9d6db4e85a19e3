from ..common.data.folder import dataloader, dataset, lr_multiplier, train
from .detr_small_shapes import model, optimizer
from .detr_small_shapes import train as train_on_shapes

# A small model from scratch, for a look at one's own images on a CPU: dataset.folder=PATH.
# One size for all: SAP-DETR as published depends on how images are padded.
dataloader.train.mapper.augmentations.short_sides = [144]
dataloader.train.mapper.augmentations.max_size = 256
dataloader.train.mapper.augmentations_with_crop = None
dataloader.test.mapper.augmentations.short_side = 144
dataloader.test.mapper.augmentations.max_size = 256
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 0
dataloader.test.num_workers = 0
# More than there are objects in any image.
model.decoder.num_queries = 42

train.epochs = 40
lr_multiplier.scheduler.milestones = [32]
lr_multiplier.scheduler.num_updates = 40
# 4 ep.
lr_multiplier.warmup_length = 0.1
train.ema = train_on_shapes.ema
train.checkpointer.period = 250
train.eval_period = 250
train.output_dir = "output/detr_small_custom"
