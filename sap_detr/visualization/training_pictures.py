"""Pictures of a training: what goes into the model, and what it finds.

Hooks for ``train.hooks`` of a config.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..checkpoint import unwrap_model
from ..config import as_list, pixel_range
from ..data import dataset_records
from ..engine.finite_detections import NonFiniteDetectionsError
from ..layers import resize_pixels
from .sheet import SheetRow, detection_sheet, draw_row, validation_rows

logger = logging.getLogger(__name__)


class FirstBatches(HookBase):  # type: ignore[misc]
    """Write ``first_batches.png``: the first images as the model sees them, with their boxes.

    Args:
        num_images: of the main process, as they come.
    """

    def __init__(self, num_images: int = 16) -> None:
        self._num_images = num_images
        self._rows: list[SheetRow] = []
        self._handle: RemovableHandle | None = None

    def before_train(self) -> None:
        # A resumed run has seen its first batches before.
        if comm.is_main_process() and self.trainer.start_iter == 0:
            self._handle = self.trainer.model.register_forward_pre_hook(self._see)

    def after_step(self) -> None:
        if self._handle is not None and len(self._rows) >= self._num_images:
            self._finish()

    def after_train(self) -> None:
        if self._handle is not None:
            self._finish()

    def _see(self, model: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not model.training:
            return
        swapped = getattr(unwrap_model(model), "input_format", "RGB") == "BGR"
        for inputs in arguments[0][: self._num_images - len(self._rows)]:
            self._rows.append(training_row(inputs, swapped))

    def _finish(self) -> None:
        assert self._handle is not None
        self._handle.remove()
        self._handle = None
        if not self._rows:
            return
        train = self.trainer.cfg.train
        try:
            path = detection_sheet(
                self._rows,
                Path(train.output_dir) / "first_batches.png",
                train.class_names,
                tile_width=320,
                title="The first images as the model sees them, with their true boxes",
            )
            logger.info(f"the first images as the model sees them: {path}")
        except OSError as error:
            logger.warning(f"first_batches.png can't be written: {error}")
        self._rows = []


def training_row(inputs: dict[str, Any], swapped: bool) -> SheetRow:
    """Return a training sample for a sheet."""
    image = inputs["image"].cpu()
    if "resize_to" in inputs:
        image = resize_pixels(image, inputs["resize_to"])
    pixels = image.permute(1, 2, 0).numpy()
    pixels = np.ascontiguousarray(pixels[:, :, ::-1] if swapped else pixels)
    truth, (height, width) = inputs["instances"], pixels.shape[:2]
    name = Path(inputs["file_name"]).name
    return SheetRow(pixels, truth, caption=f"{name}: {width}x{height}, {len(truth)} boxes")


class ValidationPictures(HookBase):  # type: ignore[misc]
    """Show TensorBoard, with each evaluation, what is found in some images of the test set.

    They are the same each time, at equal distances in the set, with the truth to the left. What
    finds them is what was evaluated: the moving average of the weights, if there is one.

    Args:
        num_images: how many.
        score_threshold: detections with lower scores are left out.
    """

    def __init__(self, num_images: int = 8, score_threshold: float = 0.3) -> None:
        self._num_images = num_images
        self._score_threshold = score_threshold
        self._dicts: Sequence[dict[str, Any]] = ()

    def before_train(self) -> None:
        names = as_list(self.trainer.cfg.dataloader.test.dataset.names)
        if names and comm.is_main_process():
            self._dicts = dataset_records(names[0])

    def after_step(self) -> None:
        done, period = self.trainer.iter + 1, self.trainer.cfg.train.eval_period
        if period > 0 and done % period == 0 and done < self.trainer.max_iter:
            self._draw()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._draw()

    def _draw(self) -> None:
        if not self._dicts:
            return
        trainer = self.trainer
        cfg = trainer.cfg
        try:
            with nullcontext() if trainer.ema is None else trainer.ema.applied():
                rows = validation_rows(
                    unwrap_model(trainer.model),
                    self._dicts,
                    instantiate(cfg.dataloader.test.mapper),
                    self._num_images,
                    self._score_threshold,
                    pixel_range(cfg),
                )
        except NonFiniteDetectionsError as error:
            logger.warning(f"no pictures of this evaluation: {error}")
            return
        for index, row in enumerate(rows):
            picture = np.asarray(draw_row(row, cfg.train.class_names))
            name = f"validation/{index}"
            trainer.storage.put_image(name, picture.transpose(2, 0, 1))
