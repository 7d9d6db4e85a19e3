from .sap_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

# 36 ep = 266112 iters * 16 images/iter / 118287 images; 30 ep = 221760 iters.
train.max_iter = 266112
lr_multiplier.scheduler.milestones = [30]
lr_multiplier.scheduler.num_updates = 36
lr_multiplier.warmup_length = 1000 / 266112
train.output_dir = "output/sap_detr_r50_36ep"
