"""DINO and SAP-DINO-DETR of a few thousand parameters, and batches for these and other methods."""

from __future__ import annotations

import torch
from detectron2.config import LazyCall, instantiate
from detectron2.structures import Boxes, Instances
from torch import nn

from sap_detr import model_zoo
from sap_detr.modeling import Predictions, build_small_resnet

SIZES = [(96, 160), (80, 64), (64, 128)]
CONFIGS = {
    "dino": "dino/common/dino_r50.py",
    "sap_dino": "sap_dino_detr/common/sap_dino_detr_r50.py",
}


def make_model(method: str, *, away: float = 0.05, seed: int = 0, **options) -> nn.Module:
    """Build a model in float64 and training mode.

    Args:
        method: a key of ``CONFIGS``.
        away: how far weights are from their initial values.
        options: of the decoder.
    """
    cfg = model_zoo.get_config(CONFIGS[method]).model
    cfg.num_classes = 5
    features = ["res3", "res4", "res5"]
    cfg.backbone = LazyCall(build_small_resnet)(
        width=8, blocks_per_stage=[1, 1, 1, 1], out_features=features, norm="FrozenBN"
    )
    cfg.neck.in_channels = [16, 32, 64]
    cfg.neck.embed_dim, cfg.neck.norm_groups = 32, 8
    small = {"num_layers": 2, "num_heads": 4, "ffn_dim": 48}
    cfg.encoder.update(small)
    cfg.decoder.update(small | {"num_queries": 20, "num_layers": 3} | options)
    cfg.denoiser.number = 6 if method == "sap_dino" else 50
    torch.manual_seed(seed)
    model = instantiate(cfg).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += away * noise
    return model.train()


def make_batch(num_objects=(2, 0, 4), sizes=SIZES) -> list[dict]:
    """Images of different sizes with so many objects each."""
    generator = torch.Generator().manual_seed(1)
    batch = []
    for (height, width), count in zip(sizes, num_objects, strict=True):
        corner = torch.rand(count, 2, generator=generator) * 30
        size = 6 + torch.rand(count, 2, generator=generator) * 26
        instances = Instances(
            (height, width),
            gt_boxes=Boxes(torch.cat((corner, corner + size), dim=1)),
            gt_classes=torch.randint(5, (count,), generator=generator),
        )
        image = torch.rand(3, height, width, generator=generator) * 255
        batch.append({"image": image, "instances": instances})
    return batch


def predict(model: nn.Module, batch: list[dict], denoising=None, **options) -> Predictions:
    """Return the network's predictions for a batch."""
    images = model.preprocess(batch)
    return model.predict(images.tensor, images.image_sizes, denoising=denoising, **options)


def noise(model: nn.Module, batch: list[dict], seed: int = 0):
    """Return what the model's denoiser draws for a batch."""
    torch.manual_seed(seed)
    return model.denoiser(model.collect_targets(batch), model.num_classes)


def tensors(predictions: Predictions) -> dict[str, torch.Tensor]:
    """Return the fields that are tensors, by name."""
    return {name: x for name, x in vars(predictions).items() if torch.is_tensor(x)}


def largest_difference(a: Predictions, b: Predictions) -> float:
    """Return the largest difference of the predictions' numbers."""
    mine, other = tensors(a), tensors(b)
    assert mine.keys() == other.keys()
    return max((x - other[name]).abs().max().item() for name, x in mine.items())


def keep_content(layer: nn.Module, seen: list[torch.Tensor]) -> None:
    """Let what a layer returns keep its gradient, and collect it."""

    def keep(module: nn.Module, arguments: tuple, content: torch.Tensor) -> None:
        content.retain_grad()
        seen.append(content)

    layer.register_forward_hook(keep)
