from .common.sam_detr_ms_r50 import model
from .sam_detr_r50_12ep import dataloader, optimizer, schedule, train

train.output_dir = "output/sam_detr_ms_r50_12ep"
