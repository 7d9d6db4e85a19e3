"""A DETR of a few thousand parameters, and batches for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch import nn

from sap_detr.config import load_config
from sap_detr.modeling import DetectionTransformer, Predictions, Targets, build_small_resnet

TINY = (
    "model.num_classes=3",
    "model.neck.in_features=[res4]",
    "model.neck.in_channels=[32]",
    "model.neck.embed_dim=32",
    "model.encoder.num_layers=1",
    "model.encoder.ffn_dim=48",
    "model.encoder.dropout=0",
    "model.decoder.num_queries=6",
    "model.decoder.num_layers=2",
    "model.decoder.ffn_dim=48",
    "model.decoder.dropout=0",
)

BuildDetr = Callable[..., DetectionTransformer]
MakeInputs = Callable[..., list[dict]]
MakeTargets = Callable[..., Targets]


@pytest.fixture(scope="session")
def build_tiny_detr() -> BuildDetr:
    """Builds a DETR of 3 classes, 6 queries, 2 layers and stride 16: ``(*overrides, seed=0)``.

    Weights are random, also those of the norms: what a trained network has, and new norms lack, is
    that zeros do not stay zeros.
    """

    def build(*overrides: str, seed: int = 0) -> DetectionTransformer:
        cfg = load_config("common/models/detr_r50.py", TINY)
        cfg.model.backbone = LazyCall(build_small_resnet)(
            width=8, blocks_per_stage=[1, 1, 1], out_features=["res4"]
        )
        cfg = LazyConfig.apply_overrides(cfg, list(overrides))
        torch.manual_seed(seed)
        model = instantiate(cfg.model)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, 0.0, 0.2)
                nn.init.normal_(module.running_mean, 0.0, 0.2)
                nn.init.uniform_(module.running_var, 0.8, 1.2)
        return model

    return build


def make_instances(
    image_size: tuple[int, int], boxes: Sequence[Sequence[float]], classes: Sequence[int]
) -> Instances:
    return Instances(
        image_size,
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
    )


@pytest.fixture(scope="session")
def make_inputs() -> MakeInputs:
    """Makes what a mapper makes: ``(image_sizes, num_objects, seed=0)``."""

    def make(
        image_sizes: Sequence[tuple[int, int]], num_objects: Sequence[int], seed: int = 0
    ) -> list[dict]:
        generator = torch.Generator().manual_seed(seed)
        inputs = []
        for (height, width), count in zip(image_sizes, num_objects, strict=True):
            image = torch.randint(0, 256, (3, height, width), generator=generator)
            corners = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64)
            low, high = corners.amin(1) * 0.8, corners.amax(1) * 0.8 + 0.1
            boxes = torch.cat((low, high), dim=1) * torch.tensor([width, height] * 2)
            classes = torch.randint(0, 3, (count,), generator=generator)
            instances = make_instances((height, width), boxes.tolist(), classes.tolist())
            inputs.append({"image": image.to(torch.uint8), "instances": instances})
        return inputs

    return make


@pytest.fixture(scope="session")
def make_targets(make_inputs: MakeInputs) -> MakeTargets:
    """Random objects in images of different sizes, in float64: ``(num_objects, seed=0)``."""

    def make(num_objects: Sequence[int], seed: int = 0) -> Targets:
        sizes = [(40 + 10 * i, 70 - 10 * i) for i in range(len(num_objects))]
        inputs = make_inputs(sizes, num_objects, seed)
        instances = [x["instances"] for x in inputs]
        return Targets.from_instances(instances, torch.device("cpu"), torch.float64)

    return make


@pytest.fixture(scope="session")
def make_predictions() -> Callable[..., Predictions]:
    """Random predictions of DETR in float64: ``(num_layers, num_images, num_queries, seed=0)``."""

    def make(num_layers: int, num_images: int, num_queries: int, seed: int = 0) -> Predictions:
        generator = torch.Generator().manual_seed(seed)
        shape = (num_layers, num_images, num_queries, 4)
        logits = torch.randn(shape, generator=generator, dtype=torch.float64)
        boxes = torch.rand(shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1
        return Predictions(logits.requires_grad_(), boxes.requires_grad_())

    return make


@pytest.fixture
def copies_to_host(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[str]]:
    """Runs a function and tells which of the methods that wait for the device it called."""

    def run(function: Callable[[], object]) -> list[str]:
        called = []
        with monkeypatch.context() as patch:
            for name in ("cpu", "item", "tolist", "nonzero", "__bool__", "__int__", "__float__"):
                original = getattr(torch.Tensor, name)

                def counted(self, *args, _name=name, _original=original, **options):
                    called.append(_name)
                    return _original(self, *args, **options)

                patch.setattr(torch.Tensor, name, counted)
            function()
        return called

    return run
