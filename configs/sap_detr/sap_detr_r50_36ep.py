from .sap_detr_r50_50ep import dataloader, model, optimizer, schedule, train

# 36 ep = 266112 iters * 16 images/iter / 118287 images; 30 ep = 221760 iters.
schedule.epochs = 36
schedule.drop_epochs = [30]
train.output_dir = "output/sap_detr_r50_36ep"
