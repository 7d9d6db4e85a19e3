"""The forward pass of every method on fake CUDA tensors, which hold no numbers and need no GPU.

What is forgotten on the CPU meets a tensor of another device there and fails, and so does whatever
copies to the host. Training goes up to the criterion, whose matcher makes the one copy of a step.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sap_detr import model_zoo
from sap_detr.modeling import Matches, object_normalizer
from sap_detr.modeling.criterion import query_sets

METHODS = {
    "detr": "common/models/detr_small.py",
    "sap_detr": "common/models/sap_detr_small.py",
    "sam_detr": "sam_detr/common/sam_detr_small.py",
    "sam_detr_ms": "sam_detr/common/sam_detr_ms_small.py",
    "sap_group_detr": "common/models/sap_detr_small.py",
    "dino": "dino/common/dino_small.py",
    "sap_dino_detr": "sap_dino_detr/common/sap_dino_detr_small.py",
}
SIZES = {"padded": [(96, 128), (64, 80)], "full": [(96, 128), (96, 128)]}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def precision(request) -> Iterator[torch.dtype]:
    """Autocast, if it is bfloat16; ``torch.autocast`` itself refuses where there is no GPU."""
    enabled = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", request.param == torch.bfloat16)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield request.param
    torch.set_autocast_enabled("cuda", enabled[0])
    torch.set_autocast_dtype("cuda", enabled[1])


def pad_together(images: list[torch.Tensor], size_divisibility: int) -> ImageList:
    """What ``ImageList.from_tensors`` does, which computes with sizes as tensors on the host."""
    assert size_divisibility == 0
    sizes = [(x.shape[-2], x.shape[-1]) for x in images]
    height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
    padded = [
        F.pad(x, (0, width - w, 0, height - h)) for x, (h, w) in zip(images, sizes, strict=True)
    ]
    return ImageList(torch.stack(padded), sizes)


@pytest.fixture
def fake(monkeypatch) -> FakeTensorMode:
    """Inside of it, all tensors that are made are fake; it need not know of a GPU."""
    monkeypatch.setattr(ImageList, "from_tensors", pad_together)
    return FakeTensorMode()


@pytest.fixture(params=METHODS)
def model(request, fake) -> nn.Module:
    """A small model of the method, whose parameters and buffers are fake CUDA tensors."""
    cfg = model_zoo.get_config(METHODS[request.param]).model
    cfg.num_classes = 3
    if request.param == "sap_group_detr":
        cfg.decoder.num_groups = 3
    cfg.encoder.dropout = cfg.decoder.dropout = 0.1
    model = instantiate(cfg)
    with fake:
        for module in model.modules():
            for name, x in [*module.named_parameters(recurse=False)]:
                moved = torch.empty(x.shape, dtype=x.dtype, device="cuda")
                setattr(module, name, nn.Parameter(moved, x.requires_grad))
            for name, x in [*module.named_buffers(recurse=False)]:
                setattr(module, name, torch.empty(x.shape, dtype=x.dtype, device="cuda"))
    return model


def make_inputs(sizes: list[tuple[int, int]], **options) -> list[dict]:
    """Images on the CPU, as loaders make them, with an object each."""
    return [
        {
            "image": torch.zeros(3, *size, dtype=torch.uint8),
            "instances": Instances(
                size,
                gt_boxes=Boxes(torch.tensor([[4.0, 4.0, 20.0, 20.0]])),
                gt_classes=torch.tensor([1]),
            ),
            **options,
        }
        for size in sizes
    ]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_detection_stays_on_the_device(model, fake, precision, sizes):
    model.eval()
    seen = []
    model.neck.projections[0].register_forward_hook(lambda module, args, x: seen.append(x))
    with fake, torch.no_grad():
        for inputs in (make_inputs(sizes), make_inputs(sizes, resize_to=(64, 96))):
            for result in model(inputs):
                instances = result["instances"]
                assert instances.pred_boxes.tensor.device.type == "cuda"
                assert instances.pred_boxes.tensor.dtype == torch.float32
                assert instances.scores.device.type == instances.pred_classes.device.type == "cuda"
    assert {(x.device.type, x.dtype) for x in seen} == {("cuda", precision)}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_training_stays_on_the_device(model, fake, precision, sizes):
    model.train()
    criterion = model.criterion
    with fake:
        inputs = make_inputs(sizes)
        images = model.preprocess(inputs)
        targets = model.collect_targets(inputs)
        denoiser = getattr(model, "denoiser", None)
        denoising = None if denoiser is None else denoiser(targets, model.num_classes)
        predictions = model.predict(images.tensor, images.image_sizes, denoising=denoising)
        normalizer = object_normalizer(2, like=predictions.boxes)
        for prefix, x in query_sets(predictions).items():
            split = x.by_group()
            for cost in criterion.matcher.costs.values():
                assert cost(split, targets).device.type == "cuda"
            layers = len(split.logits)
            index = torch.zeros(layers, 2, dtype=torch.int64, device="cuda")
            matches = x.matches or Matches(torch.arange(2, device="cuda"), index, index, (1, 1))
            losses = criterion.weighted_losses(x, targets, matches, normalizer, prefix)
            for metric in criterion.metrics.values():
                assert metric(split, targets, matches, normalizer).device.type == "cuda"
            assert len(losses) == len(x.logits) * len(criterion.losses)
            assert {loss.device.type for loss in losses.values()} == {"cuda"}
