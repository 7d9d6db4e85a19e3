from sap_detr import model_zoo

from .common.sam_detr_r50 import model

_published = model_zoo.get_config("sap_detr/sap_detr_r50_50ep.py")
dataloader, optimizer = _published.dataloader, _published.optimizer
schedule, train = _published.schedule, _published.train

model.neck.norm_groups = None
# 50 ep = 369600 iters * 16 images/iter / 118287 images (7392 whole batches an epoch; published:
# 7393, because the last, smaller batch of an epoch is trained on too); 40 ep = 295680 iters.
dataloader.train.total_batch_size = 16
schedule.epochs = 50
schedule.drop_epochs = [40]
schedule.warmup_iters = 0
train.output_dir = "output/sam_detr_r50_50ep"
