from .sap_detr_r50_50ep import dataloader, model, optimizer, schedule, train

# 12 ep = 88704 iters * 16 images/iter / 118287 images; 11 ep = 81312 iters.
schedule.epochs = 12
schedule.drop_epochs = [11]
train.output_dir = "output/sap_detr_r50_12ep"
