"""Where the forms of this package are used."""

from __future__ import annotations

import torch
from torch import Tensor


def exporting() -> bool:
    """Whether torch.export traces: for any size of images, and for any processor.

    Then there are no numbers to choose a form by, and no autograd function of Python may be met.
    """
    # Early versions of torch have no such question. Their exports are not supported.
    is_exporting = getattr(torch.compiler, "is_exporting", None)
    return is_exporting is not None and bool(is_exporting())


def cpu_form_applies(
    x: Tensor, *, meta: bool = True, compiled: bool = False, autocast: bool = False
) -> bool:
    """Whether a layer is to compute with ``x`` in the form that this package has for it.

    Never while tracing or exporting: tracers, such as that of Detectron2's FlopCountAnalysis,
    follow no autograd function of Python.

    Args:
        x: the first input.
        meta: whether the form is used on the meta device, which computes nothing, to stand for the
            CPU there.
        compiled: whether compilers can follow the form.
        autocast: whether the form leaves to autocast what it decides.
    """
    return (
        (x.device.type == "cpu" or (meta and x.device.type == "meta"))
        and (compiled or not torch.compiler.is_compiling())
        and (autocast or not torch.is_autocast_enabled("cpu"))
        and not torch.jit.is_tracing()
        and not exporting()
    )
