from .sam_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.dc5 = True
# As published: one image per GPU at a time.
train.max_images_per_gpu = 1
# 12 ep = 177420 iters * 8 images/iter / 118287 images (14785 whole batches an epoch);
# 10 ep = 147850 iters.
dataloader.train.total_batch_size = 8
train.max_iter = 177420
train.checkpointer.period = 14785
train.output_dir = "output/sam_detr_dc5_r50_12ep"
