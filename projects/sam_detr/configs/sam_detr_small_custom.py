from sap_detr import model_zoo

from .common.sam_detr_small import model

_custom = model_zoo.get_config("detr/detr_small_custom.py")
dataloader, dataset, optimizer = _custom.dataloader, _custom.dataset, _custom.optimizer
lr_multiplier, train = _custom.lr_multiplier, _custom.train

model.decoder.num_queries = 42
# Focal losses are small: without more weight, boxes are learned long before classes.
model.criterion.losses["class"].weight = 10.0
train.output_dir = "output/sam_detr_small_custom"
