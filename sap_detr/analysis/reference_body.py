"""The yardstick of speeds: the body of torchvision's ResNet-50, eager and in float32.

How long a detector takes says little on a machine that nobody else has, and less on one that others
use at the same time. How many times the body it takes, measured in turns on the same image, is much
the same everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

DESCRIPTION = (
    "body: torchvision's resnet50 with frozen batch norm, up to layer4, eager and in float32, on "
    "the same images; layer2 to layer4 are trained, and the loss is the sum of the output."
)


class ReferenceBody(nn.Sequential):
    """ResNet-50 from images (B, 3, H, W) to features (B, 2048, H / 32, W / 32) of layer4.

    Weights are random; conv1 and layer1 are not trained.
    """

    def __init__(self) -> None:
        resnet = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        for frozen in (resnet.conv1, resnet.layer1):
            frozen.requires_grad_(False)
        # Without pooling and classifier.
        super().__init__(*list(resnet.children())[:-2])

    @torch.no_grad()
    def infer(self, images: Tensor) -> None:
        """Run the forward pass without gradients."""
        self(images)

    def train_step(self, images: Tensor) -> None:
        """Forward and backward pass."""
        self.zero_grad(set_to_none=True)
        self(images).sum().backward()
