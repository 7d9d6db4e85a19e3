from detectron2.config import LazyCall as L
from torch.optim import AdamW

from sap_detr.engine import get_parameter_groups

# The published recipes: weight decay on everything trained, the backbone at a tenth of the rate.
optimizer = L(AdamW)(
    params=L(get_parameter_groups)(base_lr="${..lr}", backbone_factor=0.1),
    lr=1e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=1e-4,
    # One pass over weights and moments, which leaves out steps with NaN gradients by itself.
    fused=True,
)
