from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

# Stride 4 as well. Published: one image on each of 16 GPUs.
model.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.neck.in_features = ["res2", "res3", "res4", "res5"]
model.neck.in_channels = [256, 512, 1024, 2048]
model.encoder.num_levels = 5
train.activation_checkpointing = True
train.output_dir = "output/dino_r50_5scale_12ep"
