"""One training step: forward, backward, clipping, optimizer."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.engine.train_loop import SimpleTrainer, TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..checkpoint import unwrap_model
from ..text import listing
from .non_finite import (
    NonFinitePolicy,
    SkippedSteps,
    describe_gradients,
    describe_images,
    non_finite_weights,
    running_statistics,
    step_unless,
    write_report,
)

logger = logging.getLogger(__name__)

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class _Unread:
    """What is kept of a step until the host reads its losses.

    Attributes:
        own, mean: (T,), the metrics of this process and their mean over all, on the device.
        gradient_norms: (P,), of the parameters called ``parameters``, before clipping.
        images: see :func:`describe_images`.
    """

    iteration: int
    data_time: float
    own: Tensor
    mean: Tensor
    gradient_norms: Tensor
    parameters: list[str]
    images: list[list[dict[str, Any]]]


class StepTrainer(SimpleTrainer):  # type: ignore[misc]
    """Detectron2's ``SimpleTrainer`` with accumulation, mixed precision, clipping and seeding.

    An iteration is one optimizer step. Its random numbers (dropout) are a function of the seed, the
    rank and the iteration, so that a resumed run draws what an uninterrupted one would.

    Losses stay on the device and are read ``metric_period`` iterations at a time, with one copy.

    A step whose loss or gradient is not finite in any process changes nothing: not the weights, the
    optimizer's state or running averages. This is decided on the device; reports, limits and errors
    follow when the losses are read.

    Args:
        model: returns a dict of losses; may be wrapped in DistributedDataParallel. With several
            batches per step it takes ``num_objects`` too, as the meta-architecture does.
        data_loader: batches, without end; one step takes ``accumulation`` of them.
        optimizer: steps once per iteration.
        accumulation: batches per step. The gradient is that of as many processes with one batch
            each: losses are normalised by the mean number of objects of all of them.
        max_grad_norm: the gradient of the whole model is scaled down to this norm; None for never.
        amp_dtype: "bfloat16" or "float16" for mixed precision, None for full. float16 scales the
            loss.
        metric_period: iterations between two readings of the losses.
        seed: base of the random numbers.
        non_finite: what to do about steps that are not finite.
        report_dir: where to write about them; None for nowhere.

    Attributes:
        skip: boolean tensor () on the device, whether the last step was skipped.
        skipped: the count of such steps.
        failure: why training can't go on; None while it can.
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
        non_finite: NonFinitePolicy | None = None,
        report_dir: Path | None = None,
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
        self._unread: list[_Unread] = []
        self._metric_names: list[str] = []
        bare = unwrap_model(model)
        names = {parameter: name for name, parameter in bare.named_parameters()}
        self._trained = [
            (names.get(p, "?"), p) for group in optimizer.param_groups for p in group["params"]
        ]
        self._statistics = running_statistics(bare)
        self.report_dir = report_dir
        self.skip = torch.zeros((), dtype=torch.bool, device=next(model.parameters()).device)
        self.skipped = SkippedSteps(non_finite or NonFinitePolicy())
        self.failure: FloatingPointError | None = None

    def run_step(self) -> None:
        """Take one optimizer step."""
        assert self.model.training, "the model was left in evaluation mode"
        torch.manual_seed(_mix(self.seed, comm.get_rank(), self.iter))
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batches = list(itertools.islice(self._batches, self.accumulation))
        data_time = time.perf_counter() - start

        # They change before anyone knows the step's loss.
        statistics = [buffer.clone() for buffer in self._statistics]
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(batches)
        self.grad_scaler.unscale_(self.optimizer)
        norms = self._clip_gradients()
        losses["grad_norm"] = torch.linalg.vector_norm(norms)
        unread = self._keep_metrics(losses, norms, batches, data_time)
        # The same in all processes, as the mean over them is.
        self.skip = ~unread.mean.isfinite().all()
        step_unless(self.skip, self.optimizer)
        for buffer, before in zip(self._statistics, statistics, strict=True):
            buffer.copy_(torch.where(self.skip, before, buffer))
        self.grad_scaler.update()
        if (self.iter + 1) % self.metric_period == 0:
            self.flush_metrics()

    def _clip_gradients(self) -> Tensor:
        """Scale the gradient of the whole model down to its limit.

        Returns:
            The norms that the gradients of the trained parameters had, those that have one.
        """
        gradients = [p.grad for _, p in self._trained if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        if self.max_grad_norm is not None:
            # As clip_grad_norm_ does, which keeps the norms of the parameters to itself.
            factor = self.max_grad_norm / (torch.linalg.vector_norm(norms) + 1e-6)
            torch._foreach_mul_(gradients, factor.clamp(max=1.0))
        return norms

    def _backward(self, batches: list[list[dict[str, Any]]]) -> dict[str, Tensor]:
        """Add up the gradients of all batches; return their mean losses."""
        options: dict[str, float] = {}
        if len(batches) > 1:
            objects = sum(len(inputs["instances"]) for batch in batches for inputs in batch)
            options["num_objects"] = objects / len(batches)
        mean: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            synchronised: AbstractContextManager[None] = nullcontext()
            if isinstance(self.model, DistributedDataParallel) and index < len(batches) - 1:
                synchronised = self.model.no_sync()
            with synchronised:
                with torch.autocast(
                    self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
                ):
                    losses = self.model(batch, **options)
                total = sum(losses.values()) / len(batches)
                self.grad_scaler.scale(total).backward()
            for name, value in {"total_loss": total * len(batches), **losses}.items():
                share = value.detach() / len(batches)
                mean[name] = mean[name] + share if name in mean else share
        return mean

    def _keep_metrics(
        self,
        metrics: dict[str, Tensor],
        gradient_norms: Tensor,
        batches: list[list[dict[str, Any]]],
        data_time: float,
    ) -> _Unread:
        self._metric_names = list(metrics)
        own = torch.stack([value.float() for value in metrics.values()])
        mean = own
        if comm.get_world_size() > 1:
            mean = own.clone()
            torch.distributed.all_reduce(mean)
            mean /= comm.get_world_size()
        parameters = [name for name, p in self._trained if p.grad is not None]
        images = describe_images(batches)
        unread = _Unread(self.iter, data_time, own, mean, gradient_norms, parameters, images)
        self._unread.append(unread)
        return unread

    def flush_metrics(self) -> None:
        """Hand the losses that were not read yet to the event storage.

        Raises:
            FloatingPointError: if steps were not finite and the policy does not allow to go on; it
                names the terms and the iteration. From then on every call raises it.
        """
        if self.failure is not None:
            raise self.failure
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        rows = torch.stack([step.mean for step in unread]).tolist()
        storage = get_event_storage()
        now = storage.iter
        for step, row in zip(unread, rows, strict=True):
            storage.iter = step.iteration
            metrics = dict(zip(self._metric_names, row, strict=True))
            bad = [name for name, value in metrics.items() if not math.isfinite(value)]
            if bad:
                self._account_for(step, metrics, bad)
            else:
                self.skipped.count("finite")
                storage.put_scalars(data_time=step.data_time, **metrics)
            storage.put_scalar("skipped_steps", self.skipped.total, smoothing_hint=False)
        storage.iter = now

    def _account_for(self, step: _Unread, metrics: Mapping[str, float], bad: list[str]) -> None:
        """Write down a step that was skipped; end training if that was one too many.

        Args:
            step: the step.
            metrics: mean over all processes.
            bad: names of those that are not finite.
        """
        what = f"iteration {step.iteration}: {', '.join(bad)} became infinite or NaN"
        if self.grad_scaler.is_enabled() and bad == ["grad_norm"]:
            # An overflow of the scaled loss is the scaler's business: it lowers the scale.
            reason = self.skipped.count("overflow")
            if reason is not None:
                self._fail(f"{what}; {reason}")
            return
        reason = self.skipped.count("fault")
        weights = non_finite_weights(unwrap_model(self.model))
        report = self._report(step, metrics, weights)
        if weights:
            # No further step can mend them.
            reason = f"the weights themselves are not finite: {listing(weights, 8)}"
        if reason is not None:
            self._fail(f"{what}; {reason}; all terms: {dict(metrics)}{report}")
        logger.warning(
            f"{what}; the step was skipped ({self.skipped.consecutive} in a row, "
            f"{self.skipped.total} in all){report}"
        )

    def _report(self, step: _Unread, metrics: Mapping[str, float], weights: list[str]) -> str:
        """Write the report of a step that was skipped; return where it is, for a message."""
        if self.report_dir is None:
            return ""
        losses = dict(zip(self._metric_names, step.own.tolist(), strict=True))
        norms = dict(zip(step.parameters, step.gradient_norms.tolist(), strict=True))
        path = write_report(
            self.report_dir,
            step.iteration,
            comm.get_rank(),
            processes=comm.get_world_size(),
            amp=None if self.amp_dtype is None else str(self.amp_dtype).removeprefix("torch."),
            policy=self.skipped.policy.policy,
            skipped_in_all=self.skipped.total,
            skipped_in_a_row=self.skipped.consecutive,
            images=step.images,
            losses=losses,
            mean_losses_of_all_processes=metrics,
            gradients={"norm": losses["grad_norm"], **describe_gradients(norms)},
            weights_not_finite=weights,
        )
        return "" if path is None else f"; images, losses and gradients of the step are in {path}"

    def _fail(self, message: str) -> None:
        self.failure = FloatingPointError(message)
        raise self.failure

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizer and loss scaler, and the count of skipped steps."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "skipped_steps": self.skipped.state_dict(),
        }
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the optimizer, the count, and, if it is in use, the loss scaler."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if "skipped_steps" in state_dict:
            self.skipped.load_state_dict(state_dict["skipped_steps"])
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _mix(seed: int, rank: int, iteration: int) -> int:
    """One number below 2**63 out of three, far apart for neighbours (the splitmix64 finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + rank * 0xD1B54A32D192ED03 + iteration) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return (x ^ (x >> 31)) >> 1
