"""One training step: forward, backward, clipping, optimizer."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine.train_loop import SimpleTrainer, TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class StepTrainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` with accumulation, mixed precision, clipping and seeding.

    An iteration is one optimizer step. Its random numbers (dropout) are a function of the seed, the
    rank and the iteration, so that a resumed run draws what an uninterrupted one would.

    Losses stay on the device and are read ``metric_period`` iterations at a time, with one copy.

    Args:
        model: returns a dict of losses; may be wrapped in DistributedDataParallel.
        data_loader: batches, without end; one step takes ``accumulation`` of them.
        optimizer: steps once per iteration.
        accumulation: batches per step. The gradient is that of as many processes with one batch
            each: losses are normalised by the mean number of objects of all of them.
        max_grad_norm: the gradient of the whole model is scaled down to this norm; None for never.
        amp_dtype: "bfloat16" or "float16" for mixed precision, None for full. float16 scales the
            loss.
        metric_period: iterations between two readings of the losses.
        seed: base of the random numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: Optimizer,
        *,
        accumulation: int = 1,
        max_grad_norm: float | None = None,
        amp_dtype: str | None = None,
        metric_period: int = 20,
        seed: int = 0,
    ) -> None:
        # SimpleTrainer's own __init__ starts the loader in some versions, before a resumed run has
        # told it where to start.
        TrainerBase.__init__(self)
        model.train()
        self.model: nn.Module | DistributedDataParallel = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.accumulation = accumulation
        self.max_grad_norm = max_grad_norm
        self.amp_dtype = None if amp_dtype is None else AMP_DTYPES[amp_dtype]
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(
            self.device_type, enabled=self.amp_dtype is torch.float16
        )
        self.metric_period = metric_period
        self.seed = seed
        self._batches: Iterator[list[dict[str, Any]]] | None = None
        self._unread: list[tuple[int, float, Tensor]] = []
        self._metric_names: list[str] = []
        self.failure: FloatingPointError | None = None

    def run_step(self) -> None:
        """Takes one optimizer step."""
        assert self.model.training, "the model was left in evaluation mode"
        torch.manual_seed(_mix(self.seed, comm.get_rank(), self.iter))
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batches = list(itertools.islice(self._batches, self.accumulation))
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(batches)
        self.grad_scaler.unscale_(self.optimizer)
        gradients = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        losses["grad_norm"] = clip_grad_norm_(gradients, limit)
        self._keep_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _backward(self, batches: list[list[dict[str, Any]]]) -> dict[str, Tensor]:
        """Adds up the gradients of all batches; returns their mean losses."""
        if len(batches) > 1:
            objects = sum(len(inputs["instances"]) for batch in batches for inputs in batch)
            for batch in batches:
                batch[0]["objects_per_batch"] = objects / len(batches)
        mean: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            synchronised: AbstractContextManager[None] = nullcontext()
            if isinstance(self.model, DistributedDataParallel) and index < len(batches) - 1:
                synchronised = self.model.no_sync()
            with synchronised:
                with torch.autocast(
                    self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
                ):
                    losses = self.model(batch)
                total = sum(losses.values()) / len(batches)
                self.grad_scaler.scale(total).backward()
            for name, value in {"total_loss": total * len(batches), **losses}.items():
                share = value.detach() / len(batches)
                mean[name] = mean[name] + share if name in mean else share
        return mean

    def _keep_metrics(self, metrics: dict[str, Tensor], data_time: float) -> None:
        self._metric_names = list(metrics)
        values = torch.stack([value.float() for value in metrics.values()])
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(values)
            values /= comm.get_world_size()
        self._unread.append((self.iter, data_time, values))
        if (self.iter + 1) % self.metric_period == 0:
            self.flush_metrics()

    def flush_metrics(self) -> None:
        """Hands the losses that were not read yet to the event storage.

        Raises:
            FloatingPointError: if one of them is not finite; it names the terms and the iteration.
                From then on every call raises it.
        """
        if self.failure is not None:
            raise self.failure
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        rows = torch.stack([values for _, _, values in unread]).tolist()
        storage = get_event_storage()
        now = storage.iter
        for (iteration, data_time, _), row in zip(unread, rows, strict=True):
            metrics = dict(zip(self._metric_names, row, strict=True))
            bad = [name for name, value in metrics.items() if not math.isfinite(value)]
            # An overflow of the scaled loss is the scaler's business: it skips the step.
            if bad and not (self.grad_scaler.is_enabled() and bad == ["grad_norm"]):
                self.failure = FloatingPointError(
                    f"iteration {iteration}: {', '.join(bad)} became infinite or NaN; "
                    f"all terms: {metrics}"
                )
                raise self.failure
            storage.iter = iteration
            storage.put_scalars(data_time=data_time, **metrics)
        storage.iter = now

    def state_dict(self) -> dict[str, Any]:
        """The optimizer and the loss scaler."""
        state = {"optimizer": self.optimizer.state_dict()}
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the optimizer and, if it is in use, the loss scaler."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _mix(seed: int, rank: int, iteration: int) -> int:
    """One number below 2**63 out of three, far apart for neighbours (the splitmix64 finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + rank * 0xD1B54A32D192ED03 + iteration) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return (x ^ (x >> 31)) >> 1
