from sap_detr import model_zoo

from .common.sap_dino_detr_small import model

_dino = model_zoo.get_config("dino/dino_small_custom.py")
dataloader, dataset, optimizer = _dino.dataloader, _dino.dataset, _dino.optimizer
lr_multiplier, train = _dino.lr_multiplier, _dino.train

model.criterion.losses["class"].weight = _dino.model.criterion.losses["class"].weight
train.output_dir = "output/sap_dino_detr_small_custom"
