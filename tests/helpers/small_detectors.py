"""A small detector of every method, with random weights."""

from __future__ import annotations

import torch
from detectron2.config import instantiate

from sap_detr.config import load_config
from sap_detr.data import build_test_augmentations
from sap_detr.visualization import Predictor

CONFIGS = {
    "DETR": ("detr/detr_small_shapes.py", []),
    "SAP-DETR": ("sap_detr/sap_detr_small_shapes.py", []),
    "SAP-Group-DETR": ("sap_group_detr/sap_group_detr_small_shapes.py", []),
    "SAM-DETR": ("sam_detr/sam_detr_small_shapes.py", ["model.decoder.gaussian=false"]),
    "SMCA": ("sam_detr/sam_detr_small_shapes.py", ["model.decoder.gaussian=true"]),
    "SAM-DETR-MS": ("sam_detr/sam_detr_ms_small_custom.py", ["model.decoder.gaussian=false"]),
    "DINO": ("dino/dino_small_shapes.py", []),
    "SAP-DINO-DETR": ("sap_dino_detr/sap_dino_detr_small_shapes.py", []),
}


def make_small_model(method: str, away: float = 0.05, num_classes: int = 3) -> torch.nn.Module:
    """Build a model in evaluation mode, its weights so far from where they start."""
    config, changes = CONFIGS[method]
    torch.manual_seed(0)
    model = instantiate(load_config(config, [*changes, f"model.num_classes={num_classes}"]).model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += away * torch.randn_like(parameter)
    return model.eval()


def make_predictor(method: str) -> Predictor:
    """Build a predictor that looks at images at 64 x 96 pixels."""
    return Predictor(make_small_model(method), build_test_augmentations(64, 96))
