from ..common.data.folder import dataloader, dataset, lr_multiplier, train
from ..common.models.detr_r50 import model
from ..common.optim import optimizer

# Fine-tuning on one's own images: dataset.folder=PATH train.init_checkpoint=FILE, where FILE is
# ours or a published one. Rows of the class head are copied by class name, others start anew.
dataloader.train.total_batch_size = 16
train.max_images_per_gpu = 4
train.output_dir = "output/detr_r50_custom"
