"""Tracing by torch.export: the program that every format is made of."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from ..modeling import NamedBackbone
from .deployable import Deployable
from .errors import ExportError

# Of the traced example, which stands for all others: cells enough for every query of a first stage.
_EXAMPLE = (2, 512, 672)
LARGEST_BATCH, LARGEST_SIDE = 1024, 16384


def trace(module: Deployable, size: tuple[int, int] | None = None) -> ExportedProgram:
    """Trace a detector.

    Args:
        module: what to trace, in evaluation mode.
        size: the one (height, width) that the program takes; None for any.

    Raises:
        ExportError: it can't be traced, or not for any size.
    """
    backbone = module.model.backbone
    if size is None and isinstance(backbone, NamedBackbone) and backbone.has_windows:
        raise ExportError(
            f"the backbone {backbone.name} has windows, which are traced for one size of images "
            "only: choose it with --size HEIGHT,WIDTH"
        )
    batch, height, width = (_EXAMPLE[0], *(size or _EXAMPLE[1:]))
    device = next(module.parameters()).device
    example = (
        torch.zeros(batch, 3, height, width, dtype=torch.uint8, device=device),
        torch.tensor([[height, width], [height - 8, width - 8]], device=device),
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, example, dynamic_shapes=_dynamic(module, size))
    except Exception as error:  # of nearly any kind
        reason = " ".join(str(error).split())[:300]
        advice = "" if size else ". Try one size for all images: --size HEIGHT,WIDTH"
        raise ExportError(f"torch.export can't trace this model: {reason}{advice}") from error
    for node in program.graph.nodes:
        # Files of this machine, by their paths.
        node.meta.pop("stack_trace", None)
    return program


def _dynamic(module: Deployable, size: tuple[int, int] | None) -> dict[str, dict[int, Any]]:
    batch = Dim("batch", max=LARGEST_BATCH)
    images = {0: batch}
    if size is None:
        images[2] = Dim("height", min=module.smallest_side, max=LARGEST_SIDE)
        images[3] = Dim("width", min=module.smallest_side, max=LARGEST_SIDE)
    return {"images": images, "sizes": {0: batch}}
