from ..common.data.coco_folder import dataloader, dataset
from ..common.models.detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import schedule
from ..common.train import train

# Fine-tuning on one's own images: dataset.folder=PATH train.init_checkpoint=FILE, where FILE is
# ours or a published one. Rows of the class head are copied by class name, others start anew.
dataloader.train.total_batch_size = 16
train.max_images_per_gpu = 4
schedule.epochs = 50
schedule.drop_epochs = [40]
train.output_dir = "output/detr_r50_custom"
