"""What speed and memory are measured on: the model of a config, its input and its training step."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import Tensor, nn

from ..config import ConfigError, load_config
from ..data import dataset_class_names, register_folder
from ..engine import DetectionTrainer
from ..engine.setup import accelerate, choose_device
from ..engine.step import StepTrainer
from .building import load_with_classes
from .timing import PartTimer, Seconds, clock_of

DTYPES = ("float32", "bfloat16")
MODES = ("inference", "training")


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        config: a LazyConfig file or a zoo name.
        overrides: changes as ``key.path=value``.
        num_classes: see :func:`load_with_classes`; with ``data``, the default is that of the data.
        size: (height, width) of the images in pixels.
        batch: images of a training step.
        num_objects: random objects per image.
        device: "cpu" or "cuda".
        dtype: "float32", or "bfloat16" for mixed precision (autocast), as ``train.amp`` does it.
        compiled: run the network through ``torch.compile``, with the options of ``train.compile``;
            its ``enabled`` counts for nothing here.
        data: folder of a data set in COCO format that training steps take their images from, with
            the loader of the config and in its sizes; None for random images of ``size``.
    """

    config: str
    overrides: tuple[str, ...] = ()
    num_classes: int | None = None
    size: tuple[int, int] = (640, 800)
    batch: int = 1
    num_objects: int = 7
    device: str = "cpu"
    dtype: str = "float32"
    compiled: bool = False
    data: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the record of this workload from those of others."""
        return {
            "config": self.config,
            "overrides": list(self.overrides),
            "size": list(self.size),
            "batch": self.batch,
            "dtype": self.dtype,
            "compiled": self.compiled,
        }

    @property
    def images(self) -> str:
        """What to call the images of training steps."""
        return "synthetic" if self.data is None else Path(self.data).resolve().name


class BenchmarkModel:
    """The built model of a workload, with random weights.

    Args:
        workload: what to build.

    Attributes:
        model: on the workload's device.
        classes: number of classes, if the config says it.
        timer: tells the parts of a run apart, by the clock of the device.

    Raises:
        FileNotFoundError: if there is no such config or data set.
        ConfigError: if the config can't be built, or not with this data, or there is no GPU.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.device = torch.device(choose_device(workload.device))
        self.timer = PartTimer(clock_of(self.device))
        self._cfg, self.classes = _load(workload)
        # A model without its recipe is trained with the common one.
        for key, file in (("optimizer", "common/optim.py"), ("train", "common/train.py")):
            self._cfg.setdefault(key, load_config(file)[key])
        self._cfg.train.compile.enabled = workload.compiled
        torch.manual_seed(0)
        self.model: nn.Module = instantiate(self._cfg.model).to(self.device)
        if workload.compiled:
            # Graphs of another model in this process would count as this one's.
            torch.compiler.reset()
        accelerate(self.model, self._cfg.train)

    def images(self, batch: int) -> list[dict[str, Any]]:
        """Return random input for training or inference, as a loader gives it."""
        return synthetic_batch(
            batch, self.workload.size, self.classes or 1, self.workload.num_objects
        )

    @torch.no_grad()
    def infer(self, images: list[dict[str, Any]]) -> Any:
        """Detect in images, from the loader's output to detections."""
        if self.model.training:
            self.model.eval()
        mixed = self.workload.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            return self.model(images)

    def run(self, mode: str) -> Callable[[], object]:
        """Return what infers on one image, or makes a training step, at every call."""
        if mode == "training":
            return self.trainer().run_step
        images = self.images(1)
        return lambda: self.infer(images)

    def timed(
        self,
        mode: str,
        run: Callable[[], object],
        inner_parts: Sequence[tuple[str, nn.Module]] = (),
    ) -> Callable[[], Seconds]:
        """Return what measures a run at every call: what takes time, as far as modules tell it.

        Args:
            mode: one of ``MODES``.
            run: infers or makes a training step.
            inner_parts: name and module of further parts.
        """
        if mode == "training":
            # The time that belongs to none of the parts.
            own = "optimizer"
            parts = [("forward", self.model)]
            criterion = getattr(self.model, "criterion", None)
            if criterion is not None:
                parts += [("losses", criterion), ("matching", criterion.get_submodule("matcher"))]
        elif self.workload.compiled:
            own = "network"
            parts = [("postprocessor", self.model.get_submodule("postprocessor"))]
        else:
            own = "other"
            parts = [part for part in self.model.named_children() if part[0] != "criterion"]

        def measure() -> Seconds:
            # Changing the mode of a small model takes as long as some of its parts.
            self.model.train(mode == "training")
            with self.timer.follow([*parts, *inner_parts]):
                return self.timer.run(run, own)

        return measure

    def trainer(self) -> StepTrainer:
        """Return what makes training steps of the model, while it is in training mode.

        It tells the timer of the parts ``data`` and ``backward``. Others are modules; what is left
        is the optimizer, with zeroing and clipping of gradients.
        """
        loader: Iterable[list[dict[str, Any]]]
        if self.workload.data is None:
            loader = itertools.repeat(self.images(self.workload.batch))
        else:
            loader = instantiate(self._cfg.dataloader.train)
        next_batch = self.timer.part("data")(iter(loader).__next__)
        trainer = _TimedTrainer(
            self.model,
            iter(next_batch, None),
            DetectionTrainer.build_optimizer(self._cfg, self.model),
            max_grad_norm=self._cfg.train.clip_grad_norm,
            amp_dtype="bfloat16" if self.workload.dtype == "bfloat16" else None,
            metric_period=sys.maxsize,
        )
        trainer.timer = self.timer
        return trainer


class _TimedTrainer(StepTrainer):
    """A trainer that tells a timer when it goes backward."""

    timer: PartTimer

    def _backward(self, batches: list[list[dict[str, Any]]]) -> dict[str, Tensor]:
        # The forward pass, a part of its own, runs in here too.
        with self.timer.part("backward"):
            return super()._backward(batches)


def synthetic_batch(
    batch: int, size: tuple[int, int], num_classes: int, num_objects: int
) -> list[dict[str, Any]]:
    """Random images with random objects, always the same, as a training loader gives them.

    Args:
        batch: number of images.
        size: (height, width) in pixels.
        num_classes: labels are below.
        num_objects: of each image; sides are a tenth to a half of the image's.

    Returns:
        Per image ``image``, uint8 (3, H, W), and ``instances`` with ``gt_boxes`` (XYXY pixels) and
        ``gt_classes``.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = size
    scale = torch.tensor([width, height], dtype=torch.float32)
    images = []
    for _ in range(batch):
        sides = 0.1 + 0.4 * torch.rand(num_objects, 2, generator=generator)
        corners = (1 - sides) * torch.rand(num_objects, 2, generator=generator)
        boxes = torch.cat((corners * scale, (corners + sides) * scale), dim=1)
        instances = Instances(
            size,
            gt_boxes=Boxes(boxes),
            gt_classes=torch.randint(num_classes, (num_objects,), generator=generator),
        )
        pixels = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        images.append({"image": pixels, "instances": instances})
    return images


def _load(workload: Workload) -> tuple[DictConfig, int | None]:
    """Return the config of a workload with classes and data settled."""
    num_classes = workload.num_classes
    if workload.data is None:
        return load_with_classes(workload.config, num_classes, workload.overrides)
    name, *_ = register_folder("benchmark", workload.data)
    in_data = len(dataset_class_names(name))
    if num_classes is not None and num_classes < in_data:
        raise ConfigError(f"{workload.data} has {in_data} classes, not {num_classes}")
    cfg, classes = load_with_classes(workload.config, num_classes or in_data, workload.overrides)
    if "dataloader" not in cfg:
        raise ConfigError(
            f"{workload.config} has no dataloader to take images from: leave out data"
        )
    cfg.dataloader.train.dataset.names = name
    cfg.dataloader.train.total_batch_size = workload.batch
    return cfg, classes
