"""Writing files so that they are at all times either the old or the complete new ones."""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from .integrity import tensor_checksum
from .safe_load import CheckpointError, read_metadata
from .weight_sets import model_state


def save_checkpoint_file(data: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint; `path` is at all times either the old file or the complete new one.

    `.safetensors` keeps the tensors of `data["model"]`, with `data["class_names"]`, the model's
    description under `data["description"]`, an account of how it was trained under
    `data["training"]` and a checksum in the metadata, and nothing else; any other suffix is a
    `torch.save` file with everything.

    Raises:
        CheckpointError: `data` holds something that `load_checkpoint_file` would refuse to read
            back, or the folder does not exist. Nothing is written then.
        OSError: the disk is full or fails. The old file is as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"Can't write {path}: the folder {path.parent} does not exist.")
    if path.suffix == ".safetensors":
        try:
            content = _safetensors_content(data)
        except CheckpointError as error:
            raise CheckpointError(f"Can't write {path}: {error}") from error
        with write_atomically(path) as temporary:
            temporary.write_bytes(content)
    else:
        _check_plain(data, path, "")
        with write_atomically(path) as temporary:
            handled = sys.exc_info()[1]
            try:
                with temporary.open("wb") as file:
                    torch.save(dict(data), file)
            except RuntimeError as error:
                # torch's writer goes on after an error of the disk, which brings about another one.
                first = error.__context__
                raise (error if first in (None, handled) else first) from None


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; after the block its file replaces `path`.

    The block must write that file. It is synced to the disk before, and the folder after.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def remove_temporary_files(folder: Path) -> None:
    """Remove what `write_atomically` left in a folder when its process was killed.

    Only for a folder that no other process writes to.
    """
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows can't open folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safetensors_content(data: Mapping[str, Any]) -> bytes:
    # The format has no tensors that share memory: each name gets its own copy.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model_state({"model": data.get("model")}).items()
    }
    class_names = data.get("class_names")
    metadata = {"format": "pt"}
    if class_names is not None:
        class_names = list(class_names)
        metadata["class_names"] = json.dumps(class_names)
    for key in ("description", "training"):
        if data.get(key) is not None:
            metadata[key] = json.dumps(data[key], allow_nan=False)
    description = metadata.get("description", "")
    metadata["tensor_sha256"] = tensor_checksum(tensors, class_names, description)
    # What would not be read back shall not be written.
    read_metadata(metadata)
    return safetensors.torch.save(tensors, metadata)


_PLAIN_TYPES = (str, bytes, int, float, complex, bool, type(None), argparse.Namespace)
_TORCH_TYPES = (torch.Size, torch.device, torch.dtype)
_PLAIN_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)


def _check_plain(value: Any, path: Path, where: str) -> None:
    """Refuse what would not safely be read back, before hours of training depend on it."""
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN_TYPES + _TORCH_TYPES:
        return
    if type(value) in _PLAIN_MAPPINGS:
        for key, item in value.items():
            _check_plain(key, path, where)
            _check_plain(item, path, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            _check_plain(item, path, f"{where}[{index}]")
    else:
        raise CheckpointError(
            f"Can't write {path}: {where or 'the checkpoint'} is a "
            f"{type(value).__module__}.{type(value).__name__}. A checkpoint may hold tensors, "
            "numbers, text and plain containers, as only these load safely."
        )
