from ..common.models.sap_detr_small import model
from ..detr.detr_small_shapes import dataloader, dataset, optimizer, schedule, train

train.output_dir = "output/sap_detr_small_shapes"
