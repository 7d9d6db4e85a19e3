from sap_detr import model_zoo

from .common.sap_dino_detr_r50 import model

_dino = model_zoo.get_config("dino/dino_r50_4scale_24ep.py")
dataloader, optimizer = _dino.dataloader, _dino.optimizer
lr_multiplier, train = _dino.lr_multiplier, _dino.train

train.output_dir = "output/sap_dino_detr_r50_4scale_24ep"
