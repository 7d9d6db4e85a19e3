from ..common.data.coco import dataloader
from ..common.models.sap_detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier
from ..common.train import train

# 50 ep = 369600 iters * 16 images/iter / 118287 images (7392 whole batches an epoch; published:
# 369650, because the last, smaller batch of an epoch is trained on too).
dataloader.train.total_batch_size = 16
train.max_iter = 369600
train.checkpointer.period = 7392
lr_multiplier.warmup_length = 1000 / 369600

# torchvision's ImageNet weights ("IMAGENET1K_V1"), as its own file or as Detectron2's.
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "output/sap_detr_r50_50ep"
