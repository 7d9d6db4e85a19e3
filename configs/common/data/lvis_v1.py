from detectron2.config import LazyCall as L

from sap_detr.evaluation.lvis import LvisEvaluator

from .coco import dataloader

# Needs the package lvis (pip install --no-deps lvis: it would bring a second OpenCV), and
# $DETECTRON2_DATASETS/lvis/ with lvis_v1_train.json and lvis_v1_val.json beside coco/train2017/ and
# coco/val2017/.
dataloader.train.dataset.names = "lvis_v1_train"
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator = L(LvisEvaluator)(dataset_name="${..test.dataset.names}", tasks=["bbox"])
