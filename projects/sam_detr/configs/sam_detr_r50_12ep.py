from .sam_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.neck.norm_groups = 32
# 12 ep = 88704 iters * 16 images/iter / 118287 images; 10 ep = 73920 iters.
train.max_iter = 88704
lr_multiplier.scheduler.milestones = [10]
lr_multiplier.scheduler.num_updates = 12
train.output_dir = "output/sam_detr_r50_12ep"
