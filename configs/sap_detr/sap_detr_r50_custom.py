from ..common.models.sap_detr_r50 import model
from ..detr.detr_r50_custom import dataloader, dataset, optimizer, schedule, train

# Like detr_r50_custom: dataset.folder=PATH train.init_checkpoint=FILE.
schedule.warmup_iters = 1000
train.output_dir = "output/sap_detr_r50_custom"
