from sap_detr import model_zoo

from .dino_small_custom import model

_lite0 = model_zoo.get_config("common/lite0_custom.py")
dataloader, dataset, optimizer = _lite0.dataloader, _lite0.dataset, _lite0.optimizer
lr_multiplier, train = _lite0.lr_multiplier, _lite0.train

model.backbone = _lite0.backbone
model.update(_lite0.pixels)
model.neck.in_features = model.neck.in_channels = None
model.neck.embed_dim = 128
train.output_dir = "output/dino_lite0_custom"
