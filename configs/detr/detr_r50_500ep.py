from ..common.data.coco import dataloader
from ..common.models.detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import schedule
from ..common.train import train

# 500 ep = 924000 iters * 64 images/iter / 118287 images (1848 whole batches an epoch).
dataloader.train.total_batch_size = 64
schedule.epochs = 500
# 400 ep = 739200 iters.
schedule.drop_epochs = [400]

# torchvision's ImageNet weights ("IMAGENET1K_V1"), as its own file or as Detectron2's.
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "output/detr_r50_500ep"
