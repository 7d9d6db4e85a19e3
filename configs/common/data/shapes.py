from detectron2.config import LazyCall as L

from sap_detr.data import register_shapes

from .coco import dataloader

# Small generated images: nothing to download, and a model learns them in minutes on a CPU.
dataset = L(register_shapes)(
    name="shapes",
    folder="datasets/shapes",
    num_train=2000,
    num_val=200,
    image_size=[128, 160],
    seed=0,
    max_objects=6,
)
dataloader.train.dataset.names = "${dataset.name}_train"
dataloader.test.dataset.names = "${dataset.name}_val"

# The sizes of the objects stay as they are drawn, give or take a quarter.
train_mapper = dataloader.train.mapper
train_mapper.augmentations.short_sides = [104, 112, 120, 128, 136, 144, 152]
train_mapper.augmentations.max_size = 192
train_mapper.augmentations_with_crop = None
dataloader.test.mapper.augmentations.short_side = 128
dataloader.test.mapper.augmentations.max_size = 192
dataloader.train.num_workers = 0
dataloader.test.num_workers = 0
