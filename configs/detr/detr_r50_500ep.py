from ..common.data.coco import dataloader
from ..common.models.detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier
from ..common.train import train

# 500 ep = 924000 iters * 64 images/iter / 118287 images (1848 whole batches an epoch).
dataloader.train.total_batch_size = 64
train.max_iter = 924000
train.checkpointer.period = 1848
# 400 ep = 739200 iters.
lr_multiplier.scheduler.milestones = [400]
lr_multiplier.scheduler.num_updates = 500

# torchvision's ImageNet weights ("IMAGENET1K_V1"), as its own file or as Detectron2's.
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "output/detr_r50_500ep"
