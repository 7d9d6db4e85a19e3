"""Reading checkpoint files without ever running code that a file brings along."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from ..errors import UserError
from .array_pickle import RefusedGlobalError, load_array_pickle
from .integrity import DamagedFileError, check_torch_file, tensor_checksum

# How text files begin that are downloaded in a checkpoint's place.
_TEXTS = (b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs")
# Limits of what a safetensors file may say besides its tensors: of the whole header, which also
# lists these; of one text in it; of how deep that is nested.
MAX_HEADER_BYTES = 10 * 2**20
MAX_TEXT = 2**20
MAX_DEPTH = 32
# Files that are taken for weights by mistake.
_OTHER_SUFFIXES = (".json", ".yaml", ".yml", ".py", ".txt", ".log", ".csv")


class CheckpointError(UserError, ValueError):
    """A file or state dict can't be used as a checkpoint; the message says why and what to do."""


class UntrustedCheckpointError(CheckpointError):
    """A file asks for a class or function that tensors don't need, so it could run code."""


def load_checkpoint_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, as data only.

    `.safetensors` gives `{"model": tensors}` and, where the file's metadata has them,
    `class_names`, the model's `description` and an account of its `training`, as plain containers.
    `.pkl` is Detectron2's format for ImageNet weights (a pickled dict of numpy arrays, which become
    tensors). Anything else is read as a `torch.save` file with tensors, containers, numbers and
    `argparse.Namespace` (published DETR-family files hold one under `args`).

    The checksums of a zip archive's parts are compared first, and the one that
    `save_checkpoint_file` put into a safetensors file.

    Raises:
        UntrustedCheckpointError: the file refers to any other class or function.
        CheckpointError: the file is missing, empty, truncated, damaged or no checkpoint at all.
    """
    path = Path(path)
    _check_readable(path)
    kind = "a checkpoint"
    try:
        if path.suffix == ".safetensors":
            kind = "a safetensors file"
            return _load_safetensors(path)
        check_torch_file(path)
        if path.suffix == ".pkl" and not zipfile.is_zipfile(path):
            kind = "a pickled dict of arrays"
            data = load_array_pickle(path)
        else:
            kind = "a torch.save file"
            with torch.serialization.safe_globals([argparse.Namespace]):
                data = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path} was not loaded: {error}.") from error
    except Exception as error:  # a damaged file can fail with nearly any exception
        refused = _refused_name(error)
        if refused is not None:
            raise UntrustedCheckpointError(
                f"{path} was not loaded: it refers to {refused}, which weights don't need and "
                "which could run code. If you trust where the file comes from, load it there with "
                "the program that wrote it and save only the tensors: "
                "torch.save({'model': model.state_dict()}, path)."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "weights_only" in reason:
            # torch's advice is to run what is in the file.
            reason = "it does not hold what torch.save writes of tensors"
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) can't be read as {kind}: {reason[:200]}. The "
            "file is truncated, damaged or of another kind; download or copy it again."
        ) from error
    if not isinstance(data, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(data).__name__}, not a dict of tensors or {{'model': tensors}}."
        )
    return dict(data)


def _check_readable(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"Checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}."
        )
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise CheckpointError(f"Checkpoint {path} is empty (0 bytes). Download or copy it again.")
    # Its length comes first, whose bytes may look like anything.
    if path.suffix == ".safetensors" and start[8:9] == b"{":
        return
    if start.lstrip().lower().startswith(_TEXTS):
        raise CheckpointError(
            f"{path} is a text file (a web page or a Git LFS pointer), not a checkpoint. Download "
            "it again."
        )
    if path.suffix.lower() in _OTHER_SUFFIXES or start.lstrip().startswith((b"{", b"[")):
        raise CheckpointError(
            f"{path} is no checkpoint, but a text such as annotations, metrics or a config. "
            "Weights are in files like model_final.pth, .pkl or .safetensors."
        )


def _load_safetensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as opened:
        header_bytes = int.from_bytes(opened.read(8), "little")
    # The first brace tells a header from the start of another kind of file.
    if MAX_HEADER_BYTES < header_bytes < path.stat().st_size:
        raise CheckpointError(
            f"its header has {header_bytes} bytes, more than {MAX_HEADER_BYTES} are not read"
        )
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        names = file.keys()
        plain = read_metadata(metadata)
        checkpoint: dict[str, Any] = {"model": {name: file.get_tensor(name) for name in names}}
    checkpoint.update(plain)
    checksum = tensor_checksum(
        checkpoint["model"], plain.get("class_names"), metadata.get("description", "")
    )
    if metadata.get("tensor_sha256", checksum) != checksum:
        raise DamagedFileError("its SHA-256 checksum is another one than when it was written")
    return checkpoint


def read_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read what a safetensors file's metadata say of its weights; nothing is built.

    Raises:
        CheckpointError: text above a limit, nesting that is too deep, or no JSON.
    """
    found = {}
    for key in ("class_names", "description", "training"):
        text = metadata.get(key)
        if text is None:
            continue
        if len(text) > MAX_TEXT:
            raise CheckpointError(
                f"the {key} in its metadata are {len(text)} characters long, more than {MAX_TEXT} "
                "are not read"
            )
        try:
            found[key] = json.loads(text)
            deep = _depth(found[key]) > MAX_DEPTH
        except RecursionError:
            deep = True
        except ValueError as error:
            raise CheckpointError(f"the {key} in its metadata are no JSON: {error}") from error
        if deep:
            raise CheckpointError(
                f"the {key} in its metadata are nested more than {MAX_DEPTH} deep"
            )
    return found


def _depth(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, items), default=0)


def _refused_name(error: Exception) -> str | None:
    """Return the class or function that a file must not refer to, if the error is about one."""
    if isinstance(error, RefusedGlobalError):
        return str(error)
    is_about_one = isinstance(error, pickle.UnpicklingError)
    found = re.search(r"GLOBAL (\S+)", str(error)) if is_about_one else None
    return None if found is None else found.group(1)
