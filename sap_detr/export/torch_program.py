"""torch.export programs, ``.pt2``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from ..checkpoint.safe_save import write_atomically
from .errors import ExportError
from .metadata import Metadata
from .running import Calibration, Found, Runner

_ABOUT = "metadata.json"


def write_program(
    program: ExportedProgram, metadata: Metadata, path: Path, calibration: Calibration
) -> None:
    """Write a program with its metadata."""
    about = {_ABOUT: json.dumps(metadata.as_text())}
    # As a file: of a path, torch.export.save asks for its own suffix.
    with (
        warnings.catch_warnings(),
        write_atomically(path) as temporary,
        temporary.open("wb") as file,
    ):
        # Of tensors that share memory, which come back as they were.
        warnings.filterwarnings("ignore", "No complete tensor")
        torch.export.save(program, file, extra_files=about)


def open_program(path: Path, threads: int | None) -> tuple[Runner, dict[str, str]]:
    """Return what runs a program, and its metadata.

    What runs it raises ExportError for images that are too small.
    """
    extra: dict[str, Any] = {_ABOUT: ""}
    with path.open("rb") as file:
        module = torch.export.load(file, extra_files=extra).module()
    if threads is not None:
        torch.set_num_threads(threads)
    about: dict[str, str] = json.loads(extra[_ABOUT] or "{}")
    metadata = Metadata.from_text(about)

    def run(images: NDArray[np.uint8], sizes: NDArray[np.int64]) -> Found:
        height, width = images.shape[-2:]
        if metadata and not metadata.size and min(height, width) < metadata.smallest_side:
            raise ExportError(
                f"{path} takes images of {metadata.smallest_side} pixels and more on each side, "
                f"not of {height}x{width}: pad them, or export with --size {height},{width}"
            )
        with torch.no_grad():
            outputs = module(torch.from_numpy(images), torch.from_numpy(sizes))
        return Found(*(x.numpy() for x in outputs))

    return run, about
