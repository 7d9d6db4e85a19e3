"""Post-training quantisation to int8."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from .deployable import INPUTS
from .running import Calibration

# The part that is not quantised. A small SAP-DETR lost 0.8 points of AP with its decoder in int8,
# and 0.1 without; it is a small part of the work.
KEPT = "model.decoder"


def quantize(
    model: Any, calibration: Calibration, kept: Sequence[str], corrected: bool = True
) -> Any:
    """Let matrix products and convolutions be computed in int8, by NNCF.

    Args:
        model: of ONNX or OpenVINO.
        calibration: batches that the ranges of numbers are taken from.
        kept: patterns of the names of operations that stay as they are.
        corrected: smooth large activations, and correct biases. NNCF can't do so for ONNX files of
            this exporter.
    """
    import nncf

    # It names every operation that stays as it is.
    logging.getLogger("nncf").setLevel(logging.WARNING)
    alphas = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=0.95 if corrected else -1)
    inputs = [dict(zip(INPUTS, batch, strict=True)) for batch in calibration]
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=alphas, disable_bias_correction=not corrected
        ),
        ignored_scope=nncf.IgnoredScope(patterns=list(kept), validate=False),
    )
