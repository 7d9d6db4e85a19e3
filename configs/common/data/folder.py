from detectron2.config import LazyCall as L

from sap_detr.data import register_folder
from sap_detr.visualization.training_pictures import FirstBatches, ValidationPictures

from ..schedule import lr_multiplier
from ..train import train
from .coco import dataloader

# Any data set in COCO, YOLO or Pascal VOC format: dataset.folder=PATH on the command line is all it
# takes. Splits may have other names than train and val, such as dataset.val=test.
dataset = L(register_folder)(
    name="custom",
    folder="datasets/custom",
    train=None,
    val=None,
    # Where the folder holds several formats.
    format=None,
    # Of images without splits, the share to evaluate with, such as 0.2.
    val_share=None,
)
dataloader.train.dataset.names = "${dataset.name}_train"
dataloader.test.dataset.names = "${dataset.name}_val"

# How many iterations an epoch has is known when the images are: None is filled in then.
train.epochs = 50
train.max_iter = None
train.checkpointer.period = None
train.eval_period = None

train.hooks = [L(FirstBatches)(), L(ValidationPictures)(num_images=8, score_threshold=0.3)]
