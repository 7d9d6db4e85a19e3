from sap_detr import model_zoo

from .sap_dino_detr_small_custom import model

_dino = model_zoo.get_config("dino/dino_lite0_custom.py")
dataloader, dataset, optimizer = _dino.dataloader, _dino.dataset, _dino.optimizer
lr_multiplier, train = _dino.lr_multiplier, _dino.train

model.backbone, model.neck = _dino.model.backbone, _dino.model.neck
model.pixel_mean, model.pixel_std = _dino.model.pixel_mean, _dino.model.pixel_std
train.output_dir = "output/sap_dino_detr_lite0_custom"
