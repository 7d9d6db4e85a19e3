"""torch.export of every method's network, from normalised images to predictions."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from sap_detr import model_zoo

METHODS = {
    "detr": "common/models/detr_small.py",
    "sap_detr": "common/models/sap_detr_small.py",
    "sam_detr": "sam_detr/common/sam_detr_small.py",
    "sam_detr_ms": "sam_detr/common/sam_detr_ms_small.py",
    "dino": "dino/common/dino_small.py",
    "sap_dino_detr": "sap_dino_detr/common/sap_dino_detr_small.py",
}


class Network(nn.Module):
    """Logits and boxes of a batch without padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [(images.shape[-2], images.shape[-1])] * images.shape[0]
        predictions = self.model.predict(images, sizes, all_layers=False)
        return predictions.logits, predictions.boxes


@pytest.mark.parametrize("method", METHODS)
def test_exported_network_predicts_the_same(method):
    torch.manual_seed(0)
    cfg = model_zoo.get_config(METHODS[method]).model
    cfg.num_classes = 3
    network = Network(instantiate(cfg)).eval()
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        program = torch.export.export(network, (images,))
        expected, found = network(images), program.module()(images)
    for ours, exported in zip(expected, found, strict=True):
        assert (ours - exported).abs().max() < 1e-4
