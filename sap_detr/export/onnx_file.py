"""ONNX files, all in one."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ..checkpoint.safe_save import write_atomically
from .deployable import INPUTS, OUTPUTS
from .errors import ExportError
from .metadata import Metadata
from .quantization import KEPT, quantize
from .running import Calibration, Found, Runner


def write_onnx(
    program: ExportedProgram, metadata: Metadata, path: Path, calibration: Calibration
) -> None:
    """Write a file, checked by ONNX's own checker.

    Raises:
        ExportError: the program can't be expressed in ONNX.
    """
    import onnx

    # It tells of every operation that it doesn't compute beforehand.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        exported = torch.onnx.export(
            program,
            input_names=INPUTS,
            output_names=OUTPUTS,
            external_data=False,
            verbose=False,
            optimize=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"torch.onnx can't express this model: {error}") from error
    assert exported is not None  # it is None for the old exporter only
    _simplify(exported.model)
    model = exported.model_proto
    if metadata.precision == "int8":
        model = quantize(model, calibration, _names_of_kept(model), corrected=False)
    elif metadata.precision == "float16":
        model = _in_half(model)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.helper.set_model_props(model, metadata.as_text())
    with write_atomically(path) as temporary:
        onnx.save_model(model, temporary)
        onnx.checker.check_model(temporary, full_check=True)


def _simplify(model: Any) -> None:
    """Do what the exporter's optimisation does, but for rules that runtimes have themselves.

    One of these compares every node with every other, which takes minutes for DINO.
    """
    import onnxscript.optimizer
    from onnx_ir.passes import Sequential, common

    common.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.NameFixPass(),
    )(model)


def _in_half(model: Any) -> Any:
    """Compute in float16 outside of the parts where that has too few digits for positions."""
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    parts = ("model.backbone", "model.neck.projections", "model.encoder")
    kept = [
        node.name
        for node in model.graph.node
        if not any(repr(part) in x.value for part in parts for x in node.metadata_props)
    ]
    halved = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    # What it adds stands at the end, and types that it noted before are others now.
    del halved.graph.value_info[:]
    ordered = onnx_ir.from_proto(halved)
    ordered.graph.sort()
    return onnx_ir.to_proto(ordered)


def _names_of_kept(model: Any) -> list[str]:
    """Return patterns of the names of a part's operations."""
    return [
        f"^{re.escape(node.name)}$"
        for node in model.graph.node
        if any(repr(KEPT) in about.value for about in node.metadata_props)
    ]


def open_onnx(path: Path, threads: int | None) -> tuple[Runner, dict[str, str]]:
    """Return what runs a file by ONNX Runtime on the CPU, and its metadata."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8], sizes: NDArray[np.int64]) -> Found:
        return Found(*session.run(OUTPUTS, dict(zip(INPUTS, (images, sizes), strict=True))))

    return run, dict(session.get_modelmeta().custom_metadata_map)
