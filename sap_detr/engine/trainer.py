"""Detectron2's ``DefaultTrainer``, reading LazyConfig where that reads yacs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.file_io import PathManager
from fvcore.common.history_buffer import HistoryBuffer
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from ..checkpoint import (
    BEST,
    FINAL,
    SafeCheckpointer,
    lock_run_folder,
    release_run_folder,
    unwrap_model,
)
from ..config import ConfigError
from ..data import EpochSampler, TrainLoader
from .bad_images import BadImageCount
from .ema import EmaHook, ModelEma
from .hooks import BestCheckpoint, Evaluation, ProgressBar
from .metrics_file import METRICS_FILE, ForgivingWriter, trim_metrics
from .non_finite import NonFinitePolicy
from .preemption import PreemptionHook, StopSignals, keep_workers_through_signals
from .setup import accelerate, as_list, build_model
from .step import StepTrainer

logger = logging.getLogger(__name__)

# Values of a metric that are kept: plenty for what is logged, medians of 20 and the time left.
_HISTORY = 200


class DetectionTrainer(DefaultTrainer):
    """Trains what a LazyConfig describes, with Detectron2's hooks, writers, resume and ``test``.

    ``DefaultTrainer`` reads its run control (output folder, periods, names of the test sets) from a
    yacs config; :func:`yacs_view` fills one from the LazyConfig, which travels inside it to the
    ``build_*`` methods.

    Args:
        cfg: a LazyConfig with ``model``, ``dataloader``, ``optimizer``, ``schedule`` and ``train``,
            after :func:`~sap_detr.engine.setup.prepare_data`.
        stop: requests to stop, which end training with a checkpoint; None if nobody makes any.
    """

    def __init__(self, cfg: DictConfig, stop: StopSignals | None = None) -> None:
        # Not DefaultTrainer.__init__: all it does is build the parts from a yacs config.
        TrainerBase.__init__(self)
        # Writers of Detectron2 0.5 expect it.
        PathManager.mkdirs(cfg.train.output_dir)
        world_size = comm.get_world_size()
        accumulation = accumulation_steps(
            cfg.dataloader.train.total_batch_size, world_size, cfg.train.max_images_per_gpu
        )
        loader = self.build_train_loader(cfg, accumulation)
        keep_workers_through_signals(loader)
        self._sampler: EpochSampler = loader.sampler
        images = self._sampler.size
        self.iterations_per_epoch = images // cfg.dataloader.train.total_batch_size
        schedule = instantiate(cfg.schedule)
        self.max_iter = cfg.train.max_iter or schedule.num_iterations(self.iterations_per_epoch)
        self.start_iter = 0
        self.cfg = yacs_view(cfg, self.iterations_per_epoch, self.max_iter)

        model = self.build_model(self.cfg)
        optimizer = self.build_optimizer(self.cfg, model)
        self.scheduler: LRScheduler = schedule.build(optimizer, self.iterations_per_epoch)
        self.ema = ModelEma(model, cfg.train.ema.decay) if cfg.train.ema.enabled else None
        accelerate(model, cfg.train)
        self._trainer = StepTrainer(
            create_ddp_model(model, **ddp_arguments(model, cfg.train.ddp)),
            loader,
            optimizer,
            accumulation=accumulation,
            max_grad_norm=cfg.train.clip_grad_norm,
            amp_dtype=cfg.train.amp.dtype if cfg.train.amp.enabled else None,
            metric_period=cfg.train.log_period,
            seed=cfg.train.seed,
            non_finite=NonFinitePolicy(**cfg.train.non_finite),
            report_dir=Path(cfg.train.output_dir),
        )
        checkpointables: dict[str, Any] = {"trainer": weakref.proxy(self)}
        if self.ema is not None:
            checkpointables["ema"] = self.ema
        self.checkpointer = SafeCheckpointer(
            model,
            cfg.train.output_dir,
            class_names=cfg.train.class_names,
            max_to_keep=cfg.train.checkpointer.max_to_keep,
            **checkpointables,
        )
        logger.info(
            f"{images} training images; {cfg.dataloader.train.total_batch_size} per iteration = "
            f"{world_size} processes x {accumulation} accumulated x "
            f"{cfg.dataloader.train.total_batch_size // world_size // accumulation}; "
            f"{self.iterations_per_epoch} iterations an epoch, {self.max_iter} in all"
        )
        self._stop = stop or StopSignals()
        period = self.cfg.SOLVER.CHECKPOINT_PERIOD
        self._preemption = PreemptionHook(self._stop, self.checkpointer, period)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continues from the last checkpoint, or starts from ``train.init_checkpoint``.

        Raises:
            CheckpointError: if another run writes to the output folder, or has left checkpoints
                none of which can be used.
        """
        lock_run_folder(self.cfg.OUTPUT_DIR)
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if self.checkpointer.resumed_from is not None:
            # A checkpoint holds the iteration that was just finished.
            self.start_iter = self.iter + 1
            if comm.is_main_process():
                trim_metrics(Path(self.cfg.OUTPUT_DIR) / METRICS_FILE, self.start_iter)
        loader_step = self.start_iter * self._trainer.accumulation
        self._sampler.set_step(loader_step)

    def train(self) -> None:
        """Trains until the last iteration.

        Raises:
            CheckpointError: if another run writes to the output folder; at the end, if the last
                checkpoint or the best one could not be written.
            FloatingPointError: if losses, gradients or weights are not finite, as
                ``train.non_finite`` says.
        """
        lock_run_folder(self.cfg.OUTPUT_DIR)
        try:
            finished = self.start_iter >= self.max_iter
            if finished and comm.is_main_process() and not self.checkpointer.read_own(FINAL):
                # The run was killed between its last two checkpoints.
                self.checkpointer.save(FINAL, iteration=self.start_iter - 1)
            with self._stop.deferred():
                super().train()
            self.checkpointer.require_saved(FINAL, BEST)
        finally:
            release_run_folder(self.cfg.OUTPUT_DIR)

    def build_hooks(self) -> list[HookBase]:
        """``DefaultTrainer``'s hooks and ours."""
        cfg = self.cfg.COMPUTED_LAZY_CONFIG
        built: list[HookBase] = []
        loader = self._trainer.data_loader
        if isinstance(loader, TrainLoader):
            built.append(BadImageCount(loader.bad_images, cfg.train.log_period))
        for hook in super().build_hooks():
            if hook is None:
                continue
            if isinstance(hook, hooks.EvalHook):
                built.append(self._preemption)
                period = self.cfg.TEST.EVAL_PERIOD
                built.append(Evaluation(period, self.evaluate, self._preemption))
                if comm.is_main_process():
                    built.append(BestCheckpoint(self.checkpointer, cfg.train.best_metric))
                    if cfg.train.progress_bar:
                        built.append(ProgressBar())
                continue
            built.append(hook)
            # Every process evaluates its share of the images with the average.
            if isinstance(hook, hooks.LRScheduler) and self.ema is not None:
                built.append(EmaHook(self.ema))
        return built

    def build_writers(self) -> list[EventWriter]:
        """``DefaultTrainer``'s writers; a disk that is full does not end training."""
        return [ForgivingWriter(writer) for writer in super().build_writers()]

    def evaluate(self) -> dict[str, Any]:
        """Evaluates the model, or its moving average if there is one, on the test sets.

        Without DistributedDataParallel around it: processes may have different numbers of images,
        and its collective calls would then wait for ever.
        """
        model = unwrap_model(self.model)
        with nullcontext() if self.ema is None else self.ema.applied():
            # Those of the average too, where there is one.
            broadcast_buffers(model)
            self._last_eval_results = self.test(self.cfg, model)
        return self._last_eval_results

    def before_train(self) -> None:
        # Detectron2 keeps the last million values of every metric, which are gigabytes.
        self.storage._history.default_factory = partial(HistoryBuffer, max_length=_HISTORY)
        super().before_train()

    def after_step(self) -> None:
        done = (self.iter + 1) / self.iterations_per_epoch
        self.storage.put_scalar("epoch", done, smoothing_hint=False)
        if self.iter == self.max_iter - 1:
            self._trainer.flush_metrics()
        super().after_step()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, optimizer and loss scaler.

        Raises:
            FloatingPointError: if the losses since the last reading are not finite, so that a
                broken model is never saved.
        """
        self._trainer.flush_metrics()
        # After training Detectron2 counts one iteration more than there was.
        iteration = min(self.iter, max(self.start_iter, self.max_iter) - 1)
        return {
            **TrainerBase.state_dict(self),
            "iteration": iteration,
            "_trainer": self._trainer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return build_model(cfg.COMPUTED_LAZY_CONFIG)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        optimizer = cfg.COMPUTED_LAZY_CONFIG.optimizer
        optimizer.params.model = model
        built = instantiate(optimizer)
        del optimizer.params.model
        return built

    @classmethod
    def build_train_loader(cls, cfg: DictConfig, accumulation: int = 1) -> Any:
        loader = cfg.dataloader.train.copy()
        loader.total_batch_size = loader.total_batch_size // accumulation
        loader.accumulation_steps = accumulation
        loader.seed = cfg.train.seed
        return instantiate(loader)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        loader = cfg.COMPUTED_LAZY_CONFIG.dataloader.test.copy()
        loader.dataset.names = dataset_name
        built = instantiate(loader)
        keep_workers_through_signals(built)
        return built

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        evaluator = cfg.COMPUTED_LAZY_CONFIG.dataloader.evaluator.copy()
        evaluator.dataset_name = dataset_name
        return instantiate(evaluator)


def yacs_view(cfg: DictConfig, iterations_per_epoch: int = 1, max_iter: int = 1) -> CfgNode:
    """What ``DefaultTrainer`` reads from yacs, filled from a LazyConfig.

    Args:
        cfg: the LazyConfig. It is kept under ``COMPUTED_LAZY_CONFIG``, the prefix that yacs configs
            of fvcore reserve for values of any type.
        iterations_per_epoch: periods that are not given are once per epoch.
        max_iter: length of the training.
    """
    view = get_cfg()
    view.OUTPUT_DIR = cfg.train.output_dir
    view.MODEL.WEIGHTS = cfg.train.init_checkpoint or ""
    view.DATASETS.TEST = tuple(as_list(cfg.dataloader.test.dataset.names))
    view.SOLVER.MAX_ITER = max_iter
    view.SOLVER.CHECKPOINT_PERIOD = cfg.train.checkpointer.period or iterations_per_epoch
    period = cfg.train.eval_period
    view.TEST.EVAL_PERIOD = iterations_per_epoch if period is None else period
    view.COMPUTED_LAZY_CONFIG = cfg
    return view


def accumulation_steps(total_batch_size: int, world_size: int, max_images: int | None) -> int:
    """Batches that one process accumulates so that the recipe's total batch is kept.

    Args:
        total_batch_size: images per optimizer step, of all processes.
        world_size: number of processes.
        max_images: images that one process can hold at once; None for no limit.

    Raises:
        ConfigError: if the total batch can't be split evenly.
    """
    if total_batch_size % world_size:
        raise ConfigError(
            f"dataloader.train.total_batch_size={total_batch_size} can't be split evenly over "
            f"{world_size} processes; choose a number of processes that divides it"
        )
    per_process = total_batch_size // world_size
    if max_images is None or per_process <= max_images:
        return 1
    if max_images < 1:
        raise ConfigError(f"train.max_images_per_gpu must be at least 1, got {max_images}")
    return next(
        steps
        for steps in range(-(-per_process // max_images), per_process + 1)
        if per_process % steps == 0
    )


def broadcast_buffers(model: nn.Module) -> None:
    """Gives all processes the buffers of the first: running averages of batch norms differ."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def ddp_arguments(model: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of DistributedDataParallel; on the CPU it must not be told of devices."""
    device = next(model.parameters()).device
    ids = [device.index or torch.cuda.current_device()] if device.type == "cuda" else None
    return {"device_ids": ids, **given}
