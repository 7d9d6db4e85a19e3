"""The formats of exported files: how each is written, and run again to be checked.

A format's packages are imported once it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch.export import ExportedProgram

from .errors import ExportError, require_packages
from .metadata import Metadata
from .onnx_file import open_onnx, write_onnx
from .openvino_ir import open_openvino, write_openvino
from .running import Calibration, Runner
from .torch_program import open_program, write_program


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: what it is called.
        precisions: those that it can be written in.
        packages: what is imported to write and run it.
        extra: the extra of this package with these.
        write: program, metadata, path and calibration (empty but for int8) to a file.
        open: path, and a number of threads or None, to what runs it and its metadata.
    """

    name: str
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    extra: str
    write: Callable[[ExportedProgram, Metadata, Path, Calibration], None]
    open: Callable[[Path, int | None], tuple[Runner, dict[str, str]]]

    def require(self, precision: str) -> None:
        """Check that the format can be written in a precision, with what is installed.

        Raises:
            ExportError: it can't.
        """
        if precision not in self.precisions:
            raise ExportError(
                f"{self.name} files are not written in {precision}, but in "
                f"{', '.join(self.precisions)}"
            )
        require_packages(self.packages, self.extra)
        if precision == "int8":
            require_packages(["nncf"], "openvino")


FORMATS: Mapping[str, Format] = {
    ".pt2": Format(
        name="torch.export",
        precisions=("float32",),
        packages=(),
        extra="",
        write=write_program,
        open=open_program,
    ),
    ".onnx": Format(
        name="ONNX",
        precisions=("float32", "float16", "int8"),
        packages=("onnx", "onnxscript", "onnxruntime"),
        extra="export",
        write=write_onnx,
        open=open_onnx,
    ),
    ".xml": Format(
        name="OpenVINO",
        precisions=("float32", "float16", "bfloat16", "int8"),
        packages=("openvino",),
        extra="openvino",
        write=write_openvino,
        open=open_openvino,
    ),
}


def open_exported(path: Path, threads: int | None = None) -> tuple[Runner, Metadata | None]:
    """Open an exported file.

    Args:
        path: its suffix tells the format.
        threads: on the CPU; None for the runtime's own choice.

    Returns:
        What runs it, and what it says of itself.
    """
    runner, text = FORMATS[path.suffix].open(path, threads)
    return runner, Metadata.from_text(text)
