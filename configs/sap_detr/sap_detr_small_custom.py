from ..common.models.sap_detr_small import model
from ..detr.detr_small_custom import dataloader, dataset, optimizer, schedule, train

model.decoder.grid_size = [7, 8]
train.output_dir = "output/sap_detr_small_custom"
