"""Detectron2's ``DefaultTrainer``, reading LazyConfig where that reads yacs."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from detectron2.config import instantiate
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    create_ddp_model,
    default_writers,
    hooks,
)
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.file_io import PathManager
from fvcore.common.history_buffer import HistoryBuffer
from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..checkpoint import (
    BEST,
    FINAL,
    SCORED,
    SafeCheckpointer,
    lock_run_folder,
    release_run_folder,
    unwrap_model,
)
from ..config import ConfigError, as_list, build_part
from ..data import EpochSampler, TrainLoader
from .bad_images import BadImageCount
from .ema import EmaHook, ModelEma
from .finite_detections import FiniteDetections
from .hooks import BestCheckpoint, EarlyStopping, Evaluation, Pace, ProgressBar, StoppedEarly
from .hyperparameters import Hyperparameters
from .metrics_file import METRICS_FILE, ForgivingWriter, trim_metrics
from .model_description import ModelDescription
from .non_finite import NonFinitePolicy
from .preemption import PreemptionHook, StopSignals
from .run_config import log_changes, save_config
from .schedule import fill_in_length
from .setup import accelerate, build_model
from .step import StepTrainer

logger = logging.getLogger(__name__)

Part = TypeVar("Part", HookBase, EventWriter)

# Values of a metric that are kept: plenty for what is logged, medians of 20 and the time left.
_HISTORY = 200


class DetectionTrainer(DefaultTrainer):  # type: ignore[misc]
    """Train what a LazyConfig describes, with Detectron2's hooks, writers, resume and evaluation.

    Args:
        cfg: a LazyConfig with ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and
            ``train``, after :func:`~sap_detr.config.prepare_data`. It stays as it is.
        stop: requests to stop, which end training with a checkpoint; None if nobody makes any.

    Attributes:
        cfg: the config, with the length of the training and the periods filled in.
        iterations_per_epoch, start_iter, max_iter: of the training.
        last_results: of the last evaluation, by task and metric, on the main process; {} before.

    Raises:
        ConfigError: if settings contradict one another.
    """

    def __init__(self, cfg: DictConfig, stop: StopSignals | None = None) -> None:
        # Not DefaultTrainer.__init__: all it does is build the parts from a yacs config.
        TrainerBase.__init__(self)
        # Writers of Detectron2 0.5 expect it.
        PathManager.mkdirs(cfg.train.output_dir)
        self._given_cfg = cfg
        self.cfg = cfg = cfg.copy()
        train, batch = cfg.train, cfg.dataloader.train.total_batch_size
        world_size = comm.get_world_size()
        accumulation = accumulation_steps(batch, world_size, train.max_images_per_gpu)
        loader = self.build_train_loader(cfg, accumulation)
        self._sampler: EpochSampler = loader.sampler
        self.iterations_per_epoch = fill_in_length(train, self._sampler.size, batch)
        self.max_iter = train.max_iter
        self.start_iter = 0
        self.last_results: dict[str, Any] = {}

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.ema = ModelEma(model, train.ema.decay) if train.ema.enabled else None
        accelerate(model, train)
        self._trainer = StepTrainer(
            create_ddp_model(model, **ddp_arguments(model, train.ddp)),
            loader,
            optimizer,
            accumulation=accumulation,
            max_grad_norm=train.clip_grad_norm,
            amp_dtype=train.amp.dtype if train.amp.enabled else None,
            metric_period=train.log_period,
            seed=train.seed,
            non_finite=NonFinitePolicy(**train.non_finite),
            report_dir=Path(train.output_dir),
        )
        checkpointables: dict[str, Any] = {"trainer": weakref.proxy(self)}
        if self.ema is not None:
            checkpointables["ema"] = self.ema
        self.checkpointer = SafeCheckpointer(
            model,
            train.output_dir,
            class_names=train.class_names,
            max_to_keep=train.checkpointer.max_to_keep,
            description=describe(cfg),
            **checkpointables,
        )
        logger.info(
            f"{self._sampler.size} training images; {batch} per iteration = "
            f"{world_size} processes x {accumulation} accumulated x "
            f"{batch // world_size // accumulation}; "
            f"{self.iterations_per_epoch} iterations an epoch, {self.max_iter} in all, which are "
            f"{self.max_iter / self.iterations_per_epoch:.4g} epochs"
        )
        self._stop = stop or StopSignals()
        period = train.checkpointer.period
        self._preemption = PreemptionHook(self._stop, self.checkpointer, period)
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint, or starts from ``train.init_checkpoint``.

        Raises:
            CheckpointError: if another run writes to the output folder, or has left checkpoints
                none of which can be used.
        """
        folder = Path(self.cfg.train.output_dir)
        lock_run_folder(str(folder))
        train = self.cfg.train
        self.checkpointer.resume_or_load(
            train.init_checkpoint,
            resume=resume,
            weights=train.get("weights", SCORED),
            reinitialise=train.get("reinitialise", ()),
        )
        if self.checkpointer.resumed_from is not None:
            # A checkpoint holds the iteration that was just finished.
            self.start_iter = self.iter + 1
            if comm.is_main_process():
                log_changes(self._given_cfg, folder)
                trim_metrics(folder / METRICS_FILE, self.start_iter)
        elif not train.init_checkpoint:
            logger.info("no train.init_checkpoint: all weights start from random numbers")
        if comm.is_main_process():
            save_config(self._given_cfg, folder)
        loader_step = self.start_iter * self._trainer.accumulation
        self._sampler.set_step(loader_step)

    def train(self) -> None:
        """Train until the last iteration, or until ``train.early_stopping`` ends it.

        Raises:
            CheckpointError: if another run writes to the output folder; at the end, if the last
                checkpoint or the best one could not be written.
            FloatingPointError: if losses, gradients or weights are not finite, as
                ``train.non_finite`` says.
        """
        lock_run_folder(self.cfg.train.output_dir)
        try:
            finished = self.start_iter >= self.max_iter
            if finished and comm.is_main_process() and not self.checkpointer.read_own(FINAL):
                # The run was killed between its last two checkpoints.
                self.checkpointer.save(FINAL, iteration=self.start_iter - 1)
            with self._stop.deferred(), suppress(StoppedEarly):
                TrainerBase.train(self, self.start_iter, self.max_iter)
            self.checkpointer.require_saved(FINAL, BEST)
        finally:
            release_run_folder(self.cfg.train.output_dir)

    def build_hooks(self) -> list[HookBase]:
        """Build ``DefaultTrainer``'s hooks, in its order, and ours."""
        train, loader = self.cfg.train, self._trainer.data_loader
        built: list[HookBase] = []
        if isinstance(loader, TrainLoader):
            built.append(BadImageCount(loader.unreadable, train.log_period))
        built += [hooks.IterationTimer(), hooks.LRScheduler()]
        # Every process evaluates its share of the images with the average.
        if self.ema is not None:
            built.append(EmaHook(self.ema))
        if comm.is_main_process():
            built.append(hooks.PeriodicCheckpointer(self.checkpointer, train.checkpointer.period))
        built.append(self._preemption)
        if as_list(self.cfg.dataloader.test.dataset.names):
            built.append(Evaluation(train.eval_period, self.evaluate, self._preemption))
        if comm.is_main_process():
            built.append(BestCheckpoint(self.checkpointer, train.best_metric))
            built.append(Pace(self.cfg.dataloader.train.total_batch_size))
            built.append(Hyperparameters(self.cfg))
            shows_bar = train.progress_bar
            if sys.stderr.isatty() if shows_bar is None else shows_bar:
                built.append(ProgressBar())
        built += build_named(train, "hooks", HookBase)
        stopping = train.get("early_stopping") or {}
        if stopping.get("patience"):
            metric, period = train.best_metric, train.eval_period
            built.append(EarlyStopping(self.checkpointer, metric, period, **stopping))
        if comm.is_main_process():
            # Last, so that metrics of evaluations are written.
            built.append(hooks.PeriodicWriter(self.build_writers(), period=train.log_period))
        return built

    def build_writers(self) -> list[EventWriter]:
        """Build Detectron2's writers and those of the config; a full disk does not end training."""
        writers = default_writers(self.cfg.train.output_dir, self.max_iter)
        writers += build_named(self.cfg.train, "writers", EventWriter)
        return [ForgivingWriter(writer) for writer in writers]

    def evaluate(self) -> dict[str, Any]:
        """Evaluate the model, or its moving average if there is one, on the test sets.

        Without DistributedDataParallel around it: processes may have different numbers of images,
        and its collective calls would then wait for ever.
        """
        model = unwrap_model(self.model)
        averaged = self.ema is not None and self.ema.is_used
        logger.info(f"evaluating the {'moving average of the weights' if averaged else 'weights'}")
        with nullcontext() if self.ema is None else self.ema.applied():
            # Those of the average too, where there is one.
            broadcast_buffers(model)
            self.last_results = self.test(self.cfg, model)
        return self.last_results

    def before_train(self) -> None:
        # Detectron2 keeps the last million values of every metric, which are gigabytes.
        self.storage.histories().default_factory = partial(HistoryBuffer, max_length=_HISTORY)
        super().before_train()

    def after_step(self) -> None:
        done = (self.iter + 1) / self.iterations_per_epoch
        self.storage.put_scalar("epoch", done, smoothing_hint=False)
        if self.iter == self.max_iter - 1:
            self._trainer.flush_metrics()
        super().after_step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of iteration, hooks, optimizer and loss scaler.

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
        """Restore what :meth:`state_dict` returned."""
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: DictConfig) -> nn.Module:
        """Build the model on its device."""
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: DictConfig, model: nn.Module) -> Optimizer:
        """Build the optimizer of the model's parameters."""
        described = cfg.optimizer.copy()
        described.params.model = model
        optimizer: Optimizer = instantiate(described)
        return optimizer

    @classmethod
    def build_lr_scheduler(cls, cfg: DictConfig, optimizer: Optimizer) -> LRMultiplier:
        """Build Detectron2's scheduler, which multiplies the optimizer's rates in every iteration.

        Raises:
            ConfigError: if the parts of ``lr_multiplier`` do not fit together.
        """
        try:
            multiplier = instantiate(cfg.lr_multiplier)
        except (ValueError, TypeError, AssertionError) as error:
            raise ConfigError(f"lr_multiplier can't be built: {error}") from error
        return LRMultiplier(optimizer, multiplier, cfg.train.max_iter)

    @classmethod
    def build_train_loader(cls, cfg: DictConfig, accumulation: int = 1) -> Any:
        """Build the endless loader; one update takes ``accumulation`` of its batches."""
        loader = cfg.dataloader.train.copy()
        loader.total_batch_size = loader.total_batch_size // accumulation
        loader.accumulation_steps = accumulation
        loader.seed = cfg.train.seed
        return instantiate(loader)

    @classmethod
    def build_test_loader(cls, cfg: DictConfig, dataset_name: str) -> DataLoader[Any]:
        """Build the loader of one of the test sets."""
        described = cfg.dataloader.test.copy()
        described.dataset.names = dataset_name
        loader: DataLoader[Any] = instantiate(described)
        return loader

    @classmethod
    def build_evaluator(cls, cfg: DictConfig, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator of one of the test sets."""
        evaluator = cfg.dataloader.evaluator.copy()
        evaluator.dataset_name = dataset_name
        return instantiate(evaluator)

    @classmethod
    def test(cls, cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
        """Evaluate a model on the test sets, in all processes together.

        Returns:
            On the main process, metrics by task, such as ``{"bbox": {"AP": ...}}``; of several test
            sets, that by name of the set. {} on other processes.

        Raises:
            NonFiniteDetectionsError: a detection is NaN or infinite; the image is named.
        """
        results: dict[str, Any] = {}
        for name in as_list(cfg.dataloader.test.dataset.names):
            loader, evaluator = cls.build_test_loader(cfg, name), cls.build_evaluator(cfg, name)
            found = inference_on_dataset(model, loader, [FiniteDetections(), evaluator]) or {}
            results[name] = {task: dict(metrics) for task, metrics in found.items()}
            if comm.is_main_process():
                logger.info(f"results on {name} in csv format:")
                print_csv_format(found)
        return next(iter(results.values())) if len(results) == 1 else results


def build_named(train: DictConfig, key: str, kind: type[Part]) -> list[Part]:
    """Build what ``train.hooks`` or ``train.writers`` lists.

    Args:
        train: the part of the config.
        key: "hooks" or "writers".
        kind: what each must be.

    Raises:
        ConfigError: if one can't be built, or is something else.
    """
    built = []
    for index, described in enumerate(train.get(key) or ()):
        where = f"train.{key}[{index}]"
        part = build_part(where, described)
        if not isinstance(part, kind):
            raise ConfigError(
                f"{where} is a {type(part).__name__}, not one of Detectron2's {kind.__name__}"
            )
        built.append(part)
    return built


def describe(cfg: DictConfig) -> dict[str, Any] | None:
    """Describe a config's model as data; None, with a warning, if that can't be done."""
    try:
        return ModelDescription.from_config(cfg).as_data()
    except ConfigError as error:
        logger.warning(f"there will be no .safetensors files of weights with their model: {error}")
        return None


def accumulation_steps(total_batch_size: int, world_size: int, max_images: int | None) -> int:
    """Return the batches that one process accumulates so that the recipe's total batch is kept.

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
    """Give all processes the buffers of the first: running averages of batch norms differ."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def ddp_arguments(model: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of DistributedDataParallel; on the CPU it must not be told of devices."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return {"device_ids": None, **given}
    index = torch.cuda.current_device() if device.index is None else device.index
    return {"device_ids": [index], **given}
