from sap_detr.model_zoo import get_config

from .common.dino_r50 import model

dataloader = get_config("common/data/coco.py").dataloader
optimizer = get_config("common/optim.py").optimizer
lr_multiplier = get_config("common/schedule.py").lr_multiplier
train = get_config("common/train.py").train

# 12 ep = 88704 iters * 16 images/iter / 118287 images (7392 whole batches an epoch; published:
# 7393, because the last, smaller batch of an epoch is trained on too).
dataloader.train.total_batch_size = 16
train.max_iter = 88704
train.checkpointer.period = 7392
lr_multiplier.scheduler.milestones = [11]
lr_multiplier.scheduler.num_updates = 12

# torchvision's ImageNet weights ("IMAGENET1K_V1"), as its own file or as Detectron2's.
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.output_dir = "output/dino_r50_4scale_12ep"
