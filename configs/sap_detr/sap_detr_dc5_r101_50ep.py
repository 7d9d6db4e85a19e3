from .sap_detr_r101_50ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.dc5 = True
# As published: one image per GPU at a time.
train.max_images_per_gpu = 1
# 50 ep = 739250 iters * 8 images/iter / 118287 images (14785 whole batches an epoch).
dataloader.train.total_batch_size = 8
train.max_iter = 739250
train.checkpointer.period = 14785
lr_multiplier.warmup_length = 1000 / 739250
train.output_dir = "output/sap_detr_dc5_r101_50ep"
