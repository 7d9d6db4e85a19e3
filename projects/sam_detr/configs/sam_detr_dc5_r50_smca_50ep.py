from .sam_detr_dc5_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.decoder.gaussian = True
train.output_dir = "output/sam_detr_dc5_r50_smca_50ep"
