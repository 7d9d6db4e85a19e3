from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

# 24 ep = 177408 iters * 16 images/iter / 118287 images. The authors published no file of this
# schedule; the drop after 20 epochs is that of detrex.
train.max_iter = 177408
lr_multiplier.scheduler.milestones = [20]
lr_multiplier.scheduler.num_updates = 24
train.output_dir = "output/dino_r50_4scale_24ep"
