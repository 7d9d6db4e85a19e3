"""Our models for golden cases, whatever method and variant a case names."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sap_detr import model_zoo
from sap_detr.checkpoint import NAME_MAPS, coco_class_names
from sap_detr.checkpoint.class_rows import convert_class_rows, match_class_rows
from sap_detr.modeling import DenoisingQueries, Targets
from sap_detr.modeling.denoising import positive_matches
from sap_detr.projects import dino, sam_detr  # noqa: F401, for their names of parameters


def resnet_config(variant: dict, name: str) -> DictConfig:
    cfg = model_zoo.get_config(f"common/models/{name}.py")
    cfg.model.backbone.depth = variant["depth"]
    cfg.model.backbone.dc5 = variant["dc5"]
    return cfg.model


def sam_detr_config(variant: dict) -> DictConfig:
    levels = "ms_" if variant["multiscale"] else ""
    cfg = model_zoo.get_config(f"sam_detr/common/sam_detr_{levels}r50.py")
    cfg.model.backbone.depth = variant["depth"]
    cfg.model.backbone.dc5 = variant["dc5"]
    cfg.model.neck.norm_groups = 32 if variant["group_norm"] else None
    cfg.model.decoder.gaussian = variant["smca"]
    return cfg.model


def dino_config(variant: dict) -> DictConfig:
    cfg = model_zoo.get_config("dino/common/dino_r50.py")
    cfg.model.backbone.depth = variant["depth"]
    cfg.model.decoder.num_queries = variant["num_queries"]
    cfg.model.denoiser.number = variant["dn_number"]
    return cfg.model


class RecordedDenoiser(nn.Module):
    """Gives the noise of a case in place of random noise."""

    def __init__(self, outputs: dict[str, np.ndarray]) -> None:
        super().__init__()
        names = ("known_labels", "known_bboxes", "known_image", "known_slot")
        self.noise = {name: torch.as_tensor(outputs[f"dn:{name}"]) for name in names}
        self.groups, self.slots = int(outputs["dn:groups"]), int(outputs["dn:slots"])

    def forward(self, targets: Targets, num_classes: int) -> DenoisingQueries:
        where = self.noise["known_image"], self.noise["known_slot"]
        labels = torch.full((len(targets.counts), self.slots), -1)
        labels[where] = self.noise["known_labels"]
        boxes = torch.full((*labels.shape, 4), 0.5, dtype=torch.float64)
        boxes[where] = self.noise["known_bboxes"]
        matches = positive_matches(
            targets.counts, self.groups, max(targets.counts), targets.boxes.device
        )
        return DenoisingQueries(labels, boxes, self.groups, matches)


CONFIGS = {
    "dino": dino_config,
    "detr": partial(resnet_config, name="detr_r50"),
    "sam_detr": sam_detr_config,
    "sap_detr": partial(resnet_config, name="sap_detr_r50"),
}


def build(case: dict, weights: dict, num_classes: int, changes: dict | None = None) -> nn.Module:
    """The model of a case in float64 and evaluation mode, with the case's weights.

    Args:
        case: as ``golden_cases.load`` returns it.
        weights: published names to float64 arrays.
        num_classes: that of the case, or 80 to select the rows that COCO uses from 91 classes.
        changes: of the model's config, by key.
    """
    cfg = CONFIGS[case["method"]](case["variant"])
    cfg.num_classes = num_classes
    for key, value in (changes or {}).items():
        OmegaConf.update(cfg, key, value)
    model = instantiate(cfg).double().eval()
    names = NAME_MAPS[case["method"]]
    state = names.to_ours({name: torch.as_tensor(value) for name, value in weights.items()})
    if num_classes != case["num_classes"]:
        rows = names.class_row_names(state)
        match = match_class_rows(coco_class_names(80), 80, coco_class_names(91), 91)
        state = convert_class_rows(state, rows, match)
    missing, surplus = model.load_state_dict(state, strict=False)
    assert not surplus
    assert all(names.is_training_only(name) for name in missing)
    if any(name.startswith("dn:") for name in case["outputs"]):
        model.denoiser = RecordedDenoiser(case["outputs"])
    return model
