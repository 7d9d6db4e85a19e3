from sap_detr import model_zoo

from .common.dino_small import model

_shapes = model_zoo.get_config("detr/detr_small_shapes.py")
dataloader, dataset, optimizer = _shapes.dataloader, _shapes.dataset, _shapes.optimizer
lr_multiplier, train = _shapes.lr_multiplier, _shapes.train

# Focal losses are small: without more weight, boxes are learned long before classes.
model.criterion.losses["class"].weight = 10.0
train.output_dir = "output/dino_small_shapes"
