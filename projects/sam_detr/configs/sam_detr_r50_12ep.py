from .sam_detr_r50_50ep import dataloader, model, optimizer, schedule, train

model.neck.norm_groups = 32
# 12 ep = 88704 iters * 16 images/iter / 118287 images; 10 ep = 73920 iters.
schedule.epochs = 12
schedule.drop_epochs = [10]
train.output_dir = "output/sam_detr_r50_12ep"
