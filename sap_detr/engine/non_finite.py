"""Losses and gradients that are not finite: their step is skipped, written down and counted.

Whether a step is to be skipped is computed and obeyed on the device. The host learns of it when it
reads the losses, some iterations later.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint import non_finite_names, write_atomically
from ..config import ConfigError

logger = logging.getLogger(__name__)

REPORT_FOLDER = "non_finite"

# Parameters with the largest gradients that a report names.
_NUM_WORST = 10

# Overflows that take float16's first loss scale, 2**16, down to 1, below which gradients overflow
# on their own account.
_OVERFLOWS_TO_UNSCALED = 16


@dataclass(frozen=True)
class NonFinitePolicy:
    """What to do about a step whose loss or gradient is not finite. It never changes the weights.

    Attributes:
        policy: "skip" to go on with the next batch, within the limits; "stop" to end the run.
        max_skipped: steps of a run, with all its resumptions, that may be skipped.
        max_consecutive: of these, in a row.
    """

    policy: str = "skip"
    max_skipped: int = 100
    max_consecutive: int = 20

    def __post_init__(self) -> None:
        if self.policy not in ("skip", "stop"):
            raise ConfigError(
                f"train.non_finite.policy must be 'skip' or 'stop', got {self.policy!r}"
            )
        for name in ("max_skipped", "max_consecutive"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ConfigError(f"train.non_finite.{name} must be 0 or more, got {value!r}")


class SkippedSteps:
    """Count steps that were skipped, and say when there were too many.

    Steps whose scaled gradient overflows in float16 are part of the method and not counted, unless
    there is no end of them.

    Args:
        policy: the limits.

    Attributes:
        total: steps of the run that were skipped.
        consecutive: of these, the last in a row.
        overflows: the last steps in a row that the loss scale spoilt.
    """

    def __init__(self, policy: NonFinitePolicy) -> None:
        self.policy = policy
        self.total = self.consecutive = self.overflows = 0

    def count(self, kind: str) -> str | None:
        """Count a step.

        Args:
            kind: "finite" for one that was taken, "overflow" for one that the loss scale spoilt,
                "fault" for one whose loss or gradient is not finite.

        Returns:
            Why training must stop, if it must.
        """
        policy = self.policy
        self.overflows = self.overflows + 1 if kind == "overflow" else 0
        self.consecutive = self.consecutive + 1 if kind == "fault" else 0
        self.total += kind == "fault"
        if self.overflows > _OVERFLOWS_TO_UNSCALED + policy.max_consecutive:
            return f"{self.overflows} steps in a row overflowed, whatever the loss scale"
        if kind != "fault":
            return None
        if policy.policy == "stop":
            return "train.non_finite.policy is 'stop'"
        for count, where, limit in (
            (self.consecutive, " in a row", "max_consecutive"),
            (self.total, "", "max_skipped"),
        ):
            most = getattr(policy, limit)
            if count > most:
                return f"{count} steps{where} were skipped, train.non_finite.{limit}={most}"
        return None

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {name: getattr(self, name) for name in ("total", "consecutive", "overflows")}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, value in state_dict.items():
            setattr(self, name, value)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running averages of batch norms, which a forward pass changes."""
    return [
        buffer
        for module in model.modules()
        if getattr(module, "track_running_stats", False)
        for buffer in module.buffers(recurse=False)
    ]


def step_unless(skip: Tensor, optimizer: Optimizer) -> None:
    """Let an optimizer step, or leave weights and its state as they are.

    A fused optimizer reads ``skip`` on the device; for another one the host has to wait for it.

    Args:
        skip: boolean tensor ().
        optimizer: its gradients may be anything where ``skip`` is true.
    """
    if not all(group.get("fused") for group in optimizer.param_groups):
        if not skip.item():
            optimizer.step()
        return
    # The way in which torch's GradScaler talks to fused optimizers.
    fused: Any = optimizer
    fused.grad_scale, fused.found_inf = None, skip.float()
    try:
        optimizer.step()
    finally:
        del fused.grad_scale, fused.found_inf


def non_finite_weights(model: nn.Module) -> list[str]:
    """Name the parameters that hold NaN or infinity, and the buffers that hold NaN."""
    buffers = dict(model.named_buffers())
    return [
        *non_finite_names(dict(model.named_parameters())),
        *(name for name in non_finite_names(buffers) if buffers[name].isnan().any()),
    ]


def describe_images(batches: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Return what identifies the images of the batches of a step, without the images."""
    return [
        [
            {
                "image_id": inputs.get("image_id"),
                "file_name": inputs.get("file_name"),
                "size": list(inputs["image"].shape[1:]) if "image" in inputs else None,
                "objects": len(inputs["instances"]) if "instances" in inputs else None,
            }
            for inputs in batch
        ]
        for batch in batches
    ]


def describe_gradients(norms: Mapping[str, float]) -> dict[str, Any]:
    """Summarise the gradients' norms by parameter; the worst ones by name, NaN first."""
    worst = sorted(norms.items(), key=lambda n: (math.isnan(n[1]), n[1]), reverse=True)
    not_finite = sum(not math.isfinite(norm) for norm in norms.values())
    return {
        "parameters": len(norms),
        "parameters_not_finite": not_finite,
        "largest": dict(worst[:_NUM_WORST]),
    }


def write_report(folder: Path, iteration: int, rank: int, **content: Any) -> Path | None:
    """Write down what is known of a step that was skipped.

    Args:
        folder: the run's output folder.
        iteration: of the step.
        rank: of this process.
        **content: what is known; numbers that are not finite become text, as JSON has none.

    Returns:
        The file ``non_finite/iteration_N_rank_R.json``; None if it could not be written.
    """
    path = folder / REPORT_FOLDER / f"iteration_{iteration}_rank_{rank}.json"
    text = json.dumps({"iteration": iteration, "rank": rank, **content}, default=str)
    report = json.loads(text, parse_constant=lambda name: str(float(name)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    except OSError as error:
        logger.warning("could not write %s: %s", path, error)
        return None
    return path
