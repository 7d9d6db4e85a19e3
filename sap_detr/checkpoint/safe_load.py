"""Reading and writing checkpoint files without ever running code that a file brings along."""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import safetensors
import safetensors.torch
import torch

from .integrity import (
    SAFETENSORS_FIELDS,
    DamagedFileError,
    SealedFile,
    sealed_safetensors,
    verify_parts,
    verify_seal,
)
from .limits import check_memory

__all__ = [
    "CheckpointError",
    "UntrustedCheckpointError",
    "load_checkpoint_file",
    "remove_temporary_files",
    "save_checkpoint_file",
    "write_atomically",
]


class CheckpointError(ValueError):
    """A file or state dict can't be used as a checkpoint; the message says why and what to do."""


class UntrustedCheckpointError(CheckpointError):
    """A file asks for a class or function that tensors don't need, so it could run code."""


class _Array:
    """Stands in for `numpy.ndarray` while unpickling.

    numpy's own functions trust what a pickle says about pointers and fields, so they are not
    called. That each stand-in is a class with `__setstate__` keeps a pickle from setting attributes
    on it.
    """

    value: np.ndarray

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes | str]) -> None:
        _, shape, dtype, fortran_order, data = state
        # Python 2 wrote bytes as str, which is read as latin1, one character a byte.
        data = data.encode("latin1") if isinstance(data, str) else data
        self.value = _from_bytes(data, dtype, shape, "F" if fortran_order else "C")


class _Dtype:
    """Stands in for `numpy.dtype`: booleans, integers and floating point, in either byte order."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not re.fullmatch(r"[<>|=]?[biuf]\d{1,2}", code):
            raise pickle.UnpicklingError(f"an array of the unexpected type {code!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _EmptyArray:
    """Stands in for numpy's `_reconstruct`, which makes the array that `__setstate__` fills."""

    def __new__(cls, *_: Any) -> _Array:  # type: ignore[misc]
        return _Array()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("unexpected state")


class _ArrayFromBytes(_EmptyArray):
    """Stands in for numpy's `_frombuffer`, which pickles of protocol 5 call."""

    def __new__(  # type: ignore[misc]
        cls, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str
    ) -> _Array:
        array = _Array()
        array.value = _from_bytes(data, dtype, shape, order)
        return array


class _Latin1Bytes(_EmptyArray):
    """Stands in for `_codecs.encode`, with which pickles of protocol 2 write bytes."""

    def __new__(cls, text: str, encoding: str = "latin1") -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in the unexpected encoding {encoding!r}")
        return text.encode("latin1")


def _from_bytes(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    values = np.frombuffer(data, dtype.value) if data else np.empty(0, dtype.value)
    return values.reshape(shape, order="F" if order == "F" else "C")


_PICKLE_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _Latin1Bytes,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")  # numpy 1, numpy 2
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _EmptyArray),
            ("numeric", "_frombuffer", _ArrayFromBytes),
        )
    },
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (dict, list, tuple, set, frozenset)
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits arrays and containers; any other class or function is refused before it is
    imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PICKLE_GLOBALS[module, name]
        except KeyError:
            raise _RefusedGlobal(f"{module}.{name}") from None


class _RefusedGlobal(pickle.UnpicklingError):
    """Carries the dotted name of the refused class or function."""


def load_checkpoint_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, as data only.

    `.safetensors` gives `{"model": tensors}` and, where the file's metadata has them,
    `class_names`. `.pkl` is Detectron2's format for ImageNet weights (a pickled dict of numpy
    arrays, which become tensors). Anything else is read as a `torch.save` file with tensors,
    containers, numbers and `argparse.Namespace` (published DETR-family files hold one
    under `args`).

    The checksum of a file that `save_checkpoint_file` wrote is compared first, and those of the
    parts of any other zip archive.

    Raises:
        UntrustedCheckpointError: the file refers to any other class or function.
        CheckpointError: the file is missing, empty, truncated, damaged or no checkpoint at all.
    """
    path = Path(path)
    _check_readable(path)
    try:
        sealed = verify_seal(path)
        if path.suffix != ".safetensors":
            check_memory(path)
            if not sealed:
                verify_parts(path)
    except (DamagedFileError, OSError) as error:
        raise _damaged(path, "a checkpoint", error) from error
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix == ".pkl" and not zipfile.is_zipfile(path):
        data = _load_pickle(path)
    else:
        data = _load_torch(path)
    if not isinstance(data, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(data).__name__}, not a dict of tensors or {{'model': tensors}}."
        )
    return dict(data)


def _check_readable(path: Path) -> None:
    if not path.exists():
        raise CheckpointError(f"Checkpoint {path} does not exist.")
    if not path.is_file():
        raise CheckpointError(f"Checkpoint {path} is not a file.")
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise CheckpointError(f"Checkpoint {path} is empty (0 bytes). Download or copy it again.")
    if (
        start.lstrip()
        .lower()
        .startswith((b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs"))
    ):
        raise CheckpointError(
            f"{path} is a text file (a web page or a Git LFS pointer), not a checkpoint. Download "
            "it again."
        )


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            checkpoint: dict[str, Any] = {"model": {name: file.get_tensor(name) for name in names}}
        if "class_names" in metadata:
            checkpoint["class_names"] = json.loads(metadata["class_names"])
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise _damaged(path, "a safetensors file", error) from error
    return checkpoint


def _load_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = _ArrayUnpickler(file, encoding="latin1").load()
        return _arrays_to_tensors(data, {})
    except _RefusedGlobal as error:
        raise _untrusted(path, str(error)) from error
    except Exception as error:  # a damaged pickle can fail with nearly any exception
        raise _damaged(path, "a pickled dict of arrays", error) from error


def _arrays_to_tensors(data: Any, done: dict[int, dict[Any, Any]]) -> Any:
    if isinstance(data, dict):
        # Dicts that are shared again and again would take for ever one by one.
        if id(data) not in done:
            done[id(data)] = converted = {}
            for key, value in data.items():
                converted[key] = _arrays_to_tensors(value, done)
        return done[id(data)]
    if isinstance(data, _Array):
        # The copy makes it writable and in native byte order, as torch requires.
        native = data.value.dtype.newbyteorder("=")
        return torch.from_numpy(data.value.astype(native, order="C", copy=True))
    return data


def _load_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise _damaged(path, "a torch.save file", error) from error
        raise _untrusted(path, refused.group(1)) from error
    except Exception as error:  # a damaged file can fail with nearly any exception
        raise _damaged(path, "a torch.save file", error) from error


def _untrusted(path: Path, name: str) -> UntrustedCheckpointError:
    return UntrustedCheckpointError(
        f"{path} was not loaded: it refers to {name}, which weights don't need and which could "
        "run code. If you trust where the file comes from, load it there with the program that "
        "wrote it and save only the tensors: torch.save({'model': model.state_dict()}, path)."
    )


def _damaged(path: Path, kind: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"{path} ({path.stat().st_size} bytes) can't be read as {kind}: {reason[:200]}. The file "
        "is truncated, damaged or of another kind; download or copy it again."
    )


def save_checkpoint_file(data: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint so that `path` is at all times either the old file or the complete new
    one, and that it carries a checksum.

    `.safetensors` keeps the tensors of `data["model"]`, with `data["class_names"]` in the metadata,
    and nothing else; any other suffix is a `torch.save` file with everything.

    Raises:
        CheckpointError: `data` holds something that `load_checkpoint_file` would refuse to read
            back, or the folder does not exist. Nothing is written then.
        OSError: the disk is full or fails. The old file is as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(f"Can't write {path}: the folder {path.parent} does not exist.")
    if path.suffix == ".safetensors":
        tensors, metadata = _safetensors_content(data, path)
        with write_atomically(path) as temporary:
            content = safetensors.torch.save(tensors, {**metadata, **SAFETENSORS_FIELDS})
            temporary.write_bytes(sealed_safetensors(content))
    else:
        _check_plain(data, path, "")
        with write_atomically(path) as temporary, SealedFile(temporary) as file:
            torch.save(dict(data), cast(IO[bytes], file))


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder which, once written and synced to disk, replaces
    `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def remove_temporary_files(folder: Path) -> None:
    """Removes what `write_atomically` left in a folder when its process was killed.

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


def _safetensors_content(
    data: Mapping[str, Any], path: Path
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not isinstance(data.get("model"), Mapping):
        raise CheckpointError(f"Can't write {path}: safetensors needs the tensors under 'model'.")
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in data["model"].items():
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"Can't write {path}: model[{name!r}] is a {type(tensor).__name__}."
            )
        tensor = tensor.detach().contiguous()
        # The format has no tensors that share memory: each name gets its own copy.
        pointer = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if pointer in storages else tensor
        storages.add(pointer)
    metadata = {"format": "pt"}
    if data.get("class_names") is not None:
        metadata["class_names"] = json.dumps(list(data["class_names"]))
    return tensors, metadata


_PLAIN_TYPES = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    torch.Size,
    torch.device,
    torch.dtype,
)
_PLAIN_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)


def _check_plain(value: Any, path: Path, where: str) -> None:
    """Refuses what could be written but not safely read back, before hours of training depend on
    it."""
    if isinstance(value, torch.Tensor) or type(value) in (*_PLAIN_TYPES, argparse.Namespace):
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
