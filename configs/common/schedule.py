from detectron2.config import LazyCall as L

from sap_detr.engine import EpochSchedule

schedule = L(EpochSchedule)(epochs=50, drop_epochs=[40], drop_factor=0.1, warmup_iters=0)
