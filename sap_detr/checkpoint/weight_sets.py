"""Which weights of a checkpoint are handed out: those that were scored, or the raw ones.

A training with a moving average evaluates the average. So a checkpoint has that under ``model``,
where everything that reads checkpoints looks, Detectron2 included; the weights that the optimizer
works on are under ``raw_model``, and the average's count of updates under ``ema``. Earlier versions
had the raw weights under ``model`` and the average itself under ``ema``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..text import listing
from .safe_load import CheckpointError

SCORED, RAW = "scored", "raw"
"""The two sets of weights, as a user asks for them."""

_AVERAGE, _RAW_MODEL, _UPDATES = "ema", "raw_model", "num_updates"


def scored_first(content: Mapping[str, Any]) -> dict[str, Any]:
    """Put the weights that evaluations score under ``model``.

    Args:
        content: with the raw weights under ``model`` and, if there is a moving average, under
            ``ema`` its tensors with ``num_updates``. An average without updates is none yet.

    Returns:
        The same content in the form that files have; as it was, if it is in that form already or
        has no average.
    """
    average = content.get(_AVERAGE)
    if not isinstance(average, Mapping) or _UPDATES not in average or _RAW_MODEL in content:
        return dict(content)
    weights = {name: value for name, value in average.items() if name != _UPDATES}
    raw, updates = content["model"], average[_UPDATES]
    scored = weights if int(updates) else raw
    return {**content, "model": scored, _RAW_MODEL: raw, _AVERAGE: {_UPDATES: updates}}


def raw_first(content: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `scored_first`, to go on training."""
    content = scored_first(content)
    if _RAW_MODEL not in content:
        return content
    scored, raw = content["model"], content.pop(_RAW_MODEL)
    return {**content, "model": raw, _AVERAGE: {**scored, **content[_AVERAGE]}}


def model_state(checkpoint: Mapping[str, Any], weights: str = SCORED) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint: the one place where they are picked from a file.

    They are under `model` or `state_dict`, or the checkpoint itself. Prefixes that
    DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`) add are removed.

    Args:
        checkpoint: what `load_checkpoint_file` returned, or a state dict.
        weights: "scored", or "raw" for those of which a moving average was scored; the same where
            there is only one set.

    Raises:
        CheckpointError: there is no dict of tensors.
        ValueError: ``weights`` is neither.
    """
    if weights not in (SCORED, RAW):
        raise ValueError(f"weights={weights}: one of {SCORED}, {RAW} is expected")
    content = scored_first(checkpoint)
    keys = [*((_RAW_MODEL,) if weights == RAW else ()), "model", "state_dict"]
    state = next((v for key in keys if isinstance(v := content.get(key), Mapping)), content)
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong or not state:
        found = f"{listing(wrong, 5)} are no tensors" if wrong else "it is empty"
        raise CheckpointError(
            f"No state dict in the checkpoint: {found}. Expected {{'model': {{name: tensor}}}}."
        )
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def describe_weights(checkpoint: Mapping[str, Any], weights: str = SCORED) -> str:
    """Say which of a checkpoint's weights `model_state` returns, in words."""
    content = scored_first(checkpoint)
    if _RAW_MODEL not in content:
        return "its only weights"
    if weights == RAW:
        return "its raw weights, of which the moving average was scored"
    if not int(content[_AVERAGE][_UPDATES]):
        return "its raw weights, of which there is no moving average yet"
    return "the moving average of its weights, which was scored"
