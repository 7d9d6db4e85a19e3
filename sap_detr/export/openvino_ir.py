"""OpenVINO's intermediate representation: an ``.xml`` file with a ``.bin`` beside it."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from .deployable import INPUTS, OUTPUTS
from .errors import ExportError
from .metadata import PREFIX, Metadata
from .quantization import KEPT, quantize
from .running import Calibration, Found, Runner

_SECTION = PREFIX.rstrip(".")
# What is computed in, by the precision of the file. Left to itself, OpenVINO takes bfloat16 on
# every processor that has it.
_COMPUTED_IN = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "bf16"}


def write_openvino(
    program: ExportedProgram, metadata: Metadata, path: Path, calibration: Calibration
) -> None:
    """Write both files. Weights are float16 where less than float32 is computed in.

    Raises:
        ExportError: OpenVINO can't express the program.
    """
    import openvino

    try:
        model = openvino.convert_model(program)
    except Exception as error:  # of several kinds, some of them private
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"OpenVINO can't express this model: {reason}") from error
    for ports, names in ((model.inputs, INPUTS), (model.outputs, OUTPUTS)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    if metadata.precision == "int8":
        model = quantize(model, calibration, [_names_of_kept(program)])
    for name, text in metadata.as_text().items():
        model.set_rt_info(text, [_SECTION, name.removeprefix(PREFIX)])
    weights = path.with_suffix(".bin")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder, path.name)
        half = metadata.precision != "float32"
        openvino.save_model(model, written, compress_to_fp16=half)
        os.replace(written.with_suffix(".bin"), weights)
        os.replace(written, path)


def _names_of_kept(program: ExportedProgram) -> str:
    """Return a pattern of the names that OpenVINO gives to the operations of a part."""
    names = []
    for node in program.graph.nodes:
        modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        if node.op == "call_function" and KEPT in modules:
            names.append(re.escape(node.name))
    return rf"^({'|'.join(names)})/.*$"


def open_openvino(path: Path, threads: int | None) -> tuple[Runner, dict[str, str]]:
    """Return what runs the files on the CPU, in the precision that they are meant for."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    about = {
        PREFIX + name: str(model.get_rt_info([_SECTION, name]).astype(str))
        for name in Metadata.__dataclass_fields__
        if model.has_rt_info([_SECTION, name])
    }
    metadata = Metadata.from_text(about)
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if metadata is not None:
        config["INFERENCE_PRECISION_HINT"] = _COMPUTED_IN[metadata.precision]
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", config)

    def run(images: NDArray[np.uint8], sizes: NDArray[np.int64]) -> Found:
        outputs = compiled(dict(zip(INPUTS, (images, sizes), strict=True)))
        return Found(*(outputs[name].copy() for name in OUTPUTS))

    return run, about
