from sap_detr import model_zoo

from .common.sam_detr_r50 import model

_custom = model_zoo.get_config("detr/detr_r50_custom.py")
dataloader, dataset, optimizer = _custom.dataloader, _custom.dataset, _custom.optimizer
lr_multiplier, train = _custom.lr_multiplier, _custom.train

# Like detr_r50_custom: dataset.folder=PATH train.init_checkpoint=FILE.
model.decoder.gaussian = True
model.neck.position_encoding.well_conditioned = True
train.output_dir = "output/sam_detr_r50_custom"
