from ..common.models.sap_detr_small import model
from ..detr.detr_small_shapes import dataloader, dataset, lr_multiplier, optimizer, train

# Focal losses are small: without more weight, boxes are learned long before classes.
model.criterion.losses["class"].weight = 10.0
train.output_dir = "output/sap_detr_small_shapes"
