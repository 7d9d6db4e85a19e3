from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

# 36 ep = 266112 iters * 16 images/iter / 118287 images. No file of this schedule was published, by
# anyone; the drop for the last sixth is that of the one of 24 epochs.
train.max_iter = 266112
lr_multiplier.scheduler.milestones = [30]
lr_multiplier.scheduler.num_updates = 36
train.output_dir = "output/dino_r50_4scale_36ep"
