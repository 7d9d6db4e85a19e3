from .sap_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

# 12 ep = 88704 iters * 16 images/iter / 118287 images; 11 ep = 81312 iters.
train.max_iter = 88704
lr_multiplier.scheduler.milestones = [11]
lr_multiplier.scheduler.num_updates = 12
lr_multiplier.warmup_length = 1000 / 88704
train.output_dir = "output/sap_detr_r50_12ep"
