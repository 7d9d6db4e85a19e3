"""Detectors of every method, of few layers and with random weights, as users have them."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from sap_detr.checkpoint import save_checkpoint_file
from sap_detr.config import load_config
from sap_detr.engine import ModelDescription

METHODS = {
    "detr": "detr/detr_small_shapes.py",
    "sap_detr": "sap_detr/sap_detr_small_shapes.py",
    "sam_detr": "sam_detr/sam_detr_small_shapes.py",
    "sam_detr_ms": "sam_detr/sam_detr_ms_small_custom.py",
    "dino": "dino/dino_small_shapes.py",
    "sap_dino_detr": "sap_dino_detr/sap_dino_detr_small_shapes.py",
    "sap_group_detr": "sap_group_detr/sap_group_detr_small_shapes.py",
}
NAMES = ["circle", "square", "star"]


def save_detector(method: str, file: Path, **changes: object) -> Path:
    """Write weights that describe their model, as training leaves them.

    Args:
        method: a key of ``METHODS``.
        file: to write.
        changes: of the config, with ``__`` for dots.
    """
    cfg = load_config(METHODS[method])
    cfg.model.num_classes = len(NAMES)
    cfg.dataloader.test.mapper.augmentations.short_side = 160
    cfg.dataloader.test.mapper.augmentations.max_size = 256
    model = cfg.model
    model.backbone.width = 8
    model.backbone.blocks_per_stage = [1] * len(model.backbone.blocks_per_stage)
    model.neck.in_channels = [16 * 2**level for level in range(len(model.neck.in_channels))]
    model.neck.embed_dim, model.neck.norm_groups = 32, 8
    model.encoder.num_layers, model.encoder.ffn_dim = 1, 48
    model.decoder.ffn_dim = 48
    if "layer_levels" in model.decoder:
        model.decoder.layer_levels = model.decoder.layer_levels[-2:]
    else:
        model.decoder.num_layers = 2
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    torch.manual_seed(0)
    network = instantiate(model)
    for parameter in network.parameters():
        # Away from where they start, which would give all detections the same score.
        parameter.data += 0.05 * torch.randn_like(parameter)
    description = ModelDescription.from_config(cfg).as_data()
    content = {"model": network.state_dict(), "class_names": NAMES, "description": description}
    save_checkpoint_file(content, file)
    return file
