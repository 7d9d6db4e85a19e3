from detectron2.config import LazyCall as L

from sap_detr.data import register_shapes

from .coco import dataloader

# Small generated images: nothing to download, and a model learns them in minutes on a CPU.
dataset = L(register_shapes)(
    name="shapes",
    folder="datasets/shapes",
    num_train=4000,
    num_val=300,
    image_size=[64, 64],
    seed=0,
    max_objects=4,
    min_radius=9,
)
dataloader.train.dataset.names = "${dataset.name}_train"
dataloader.test.dataset.names = "${dataset.name}_val"

# One size for all, so that no image is padded: SAP-DETR as published depends on padding.
dataloader.train.mapper.augmentations.short_sides = [64]
dataloader.train.mapper.augmentations.max_size = 96
dataloader.train.mapper.augmentations_with_crop = None
dataloader.test.mapper.augmentations.short_side = 64
dataloader.test.mapper.augmentations.max_size = 96
dataloader.train.num_workers = 0
dataloader.test.num_workers = 0
