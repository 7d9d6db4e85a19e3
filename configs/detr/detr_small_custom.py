from ..common.data.coco_folder import dataloader, dataset
from ..common.models.detr_small import model
from ..common.optim import optimizer
from ..common.schedule import schedule
from ..common.train import train

# A small model from scratch, for a look at one's own images on a CPU: dataset.folder=PATH.
dataloader.train.mapper.augmentations.short_sides = [192, 208, 224, 240, 256]
dataloader.train.mapper.augmentations.max_size = 384
dataloader.train.mapper.augmentations_with_crop = None
dataloader.test.mapper.augmentations.short_side = 240
dataloader.test.mapper.augmentations.max_size = 384
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 0
dataloader.test.num_workers = 0
model.decoder.num_queries = 60

schedule.epochs = 60
schedule.drop_epochs = [50]
schedule.warmup_iters = 100

optimizer.lr = 5e-4
optimizer.params.backbone_factor = 1.0
train.output_dir = "output/detr_small_custom"
