"""Checkpoints that want to run code or to fill the memory: each is refused, and does neither."""

from __future__ import annotations

import argparse
import ast
import collections
import io
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sap_detr.checkpoint import (
    CheckpointError,
    UntrustedCheckpointError,
    load_checkpoint_file,
)

ROOT = Path(__file__).parents[2]


class Call:
    """Calls a function when it is unpickled without care."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.fixture
def sentinel(tmp_path):
    """What every payload would create."""
    folder = tmp_path / "sentinel"
    folder.mkdir()
    return folder / "executed"


def payloads(sentinel):
    command = f"touch {sentinel}"
    return {
        "os.system": Call(os.system, command),
        "subprocess": Call(subprocess.call, ["touch", str(sentinel)]),
        "eval": Call(eval, f"open({str(sentinel)!r}, 'w')"),
        "exec": Call(exec, f"open({str(sentinel)!r}, 'w')"),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "torch.load": Call(torch.load, str(sentinel)),
        "numpy.load": Call(np.load, str(sentinel), None, True),
        "key of a dict": {Call(os.system, command): 1},
        "object array": np.array([Call(os.system, command)], dtype=object),
        "deep inside": {"model": [{"a": ({"b": Call(os.system, command)},)}]},
        "after the tensors": collections.OrderedDict(w=torch.ones(2), x=Call(os.system, command)),
    }


NAMES = list(payloads(Path()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("container", ["pickle 0", "pickle 2", "pickle 5", "zip", "legacy torch"])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_payload(tmp_path, sentinel, name, container, suffix):
    path = tmp_path / f"model{suffix}"
    data = {"model": {}, "payload": payloads(sentinel)[name]}
    if container.startswith("pickle"):
        if name == "after the tensors":
            data["payload"]["w"] = np.ones(2)
        path.write_bytes(pickle.dumps(data, protocol=int(container[-1])))
    else:
        torch.save(data, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint_file(path)
    assert str(path) in str(error.value)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["os.system", "subprocess", "eval", "exec", "object array"])
def test_the_payloads_work(sentinel, name):
    """What is refused above is what an ordinary load would have run."""
    pickle.loads(pickle.dumps(payloads(sentinel)[name]))
    assert sentinel.exists()


def test_tar_archives_of_torch_0_1(tmp_path, sentinel):
    path = tmp_path / "model.pth"
    payload = pickle.dumps(Call(os.system, f"touch {sentinel}"), protocol=2)
    with tarfile.open(path, "w:") as archive:
        for part in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(part)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
    with pytest.raises(CheckpointError, match="tar archives"):
        load_checkpoint_file(path)
    assert not sentinel.exists()


def test_a_pickle_in_a_zip_under_the_name_of_a_pickle(tmp_path, sentinel):
    path = tmp_path / "model.pkl"
    torch.save({"model": Call(os.system, f"touch {sentinel}")}, path)
    with pytest.raises(UntrustedCheckpointError, match="system"):
        load_checkpoint_file(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_a_whole_module(tmp_path, legacy):
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UntrustedCheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint_file(path)


def write_archive(path, data_pkl, compression=zipfile.ZIP_STORED, **parts):
    """A torch.save file with another pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", data_pkl)
        archive.writestr("model/byteorder", "little")
        archive.writestr("model/version", "3\n")
        for name, content in parts.items():
            archive.writestr(f"model/data/{name.strip('_')}", content)


# Pickles that call only what weights need, with arguments that they don't.
TRICKS = {
    "attributes of a class": b"\x80\x02cargparse\nNamespace\n}X\x01\x00\x00\x00aK\x01sb.",
    "attributes of a function": b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.",
    "a class as base": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\n)))tR.",
    "name with a dot": b"\x80\x02cargparse\nNamespace.__init__\n)R.",
    "codec that runs python": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00punyc"
    b"\x86R.",
    "empty bytes": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R.",
    "empty bytes of python 2": b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10"
    b"\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "endless list": b"\x80\x02]q\x00h\x00a.",
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("container", ["pickle.pth", "pickle.pkl", "zip.pth", "legacy.pth"])
def test_what_is_admitted_can_not_be_misused(tmp_path, trick, container):
    path = tmp_path / container
    if container.startswith("pickle"):
        path.write_bytes(TRICKS[trick])
    elif container == "zip.pth":
        write_archive(path, TRICKS[trick])
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        empty = pickle.dumps({}, protocol=2)
        assert content.count(empty) == 1
        path.write_bytes(content.replace(empty, TRICKS[trick]))
    before = dict(vars(argparse.Namespace)), dict(vars(collections.OrderedDict))
    with pytest.raises(CheckpointError):
        load_checkpoint_file(path)
    assert before == (dict(vars(argparse.Namespace)), dict(vars(collections.OrderedDict)))


def test_a_namespace_is_only_data(tmp_path):
    path = tmp_path / "model.pth"
    namespace = (
        b"cargparse\nNamespace\n)\x81}(X\x09\x00\x00\x00__class__K\x01X\x01\x00\x00\x00aK\x02ub"
    )
    write_archive(path, b"\x80\x02}X\x04\x00\x00\x00args" + namespace + b"s.")
    loaded = load_checkpoint_file(path)["args"]
    assert type(loaded) is argparse.Namespace
    assert loaded.a == 2


def test_zip_bomb(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": {"weight": torch.zeros(10**6)}}, tmp_path / "honest.pth")
    with (
        zipfile.ZipFile(tmp_path / "honest.pth") as honest,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for part in honest.infolist():
            bomb.writestr(part.filename, honest.read(part))
    assert path.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="unpack to 4000"):
        load_checkpoint_file(path)


def test_parts_that_share_their_bytes(tmp_path):
    """Many entries of the table of contents that all stand for the same part."""
    path = tmp_path / "model.pth"
    write_archive(path, pickle.dumps({}, protocol=2), _0=bytes(1000))
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    table = content[start:end]
    last = table[table.rindex(b"PK\x01\x02") :]
    copies = b"".join(
        last.replace(b"model/data/0", b"model/data/%c" % code) for code in range(65, 91)
    )
    count = struct.unpack("<H", content[end + 8 : end + 10])[0] + 26
    record = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(table + copies), start, 0
    )
    path.write_bytes(content[:start] + table + copies + record)
    assert len(zipfile.ZipFile(path).infolist()) == count
    with pytest.raises(CheckpointError, match="unpack to"):
        load_checkpoint_file(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # The size of the storage, and that of the tensor, in the pickle of a tensor of ten numbers.
        (b"K\nt", b"J\x00\x94\x35\x77t"),
        (b"K\n\x85", b"J\x00\x94\x35\x77\x85"),
    ],
)
def test_tensors_that_claim_more_than_there_is(tmp_path, old, new):
    honest, path = tmp_path / "honest.pth", tmp_path / "model.pth"
    torch.save({"model": {"w": torch.zeros(10)}}, honest)
    with zipfile.ZipFile(honest) as archive:
        data = archive.read("honest/data.pkl")
    assert data.count(old) == 1
    write_archive(path, data.replace(old, new), _0=bytes(40))
    with pytest.raises(CheckpointError):
        load_checkpoint_file(path)


def test_dicts_that_multiply(tmp_path):
    """Forty dicts, each twice in the next: a trillion, if one followed every path."""
    data = {"weight": np.ones(1)}
    for _ in range(40):
        data = {"a": data, "b": data}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": data}))
    model = load_checkpoint_file(path)["model"]
    assert model["a"] is model["b"]
    cycle = {}
    cycle["model"] = cycle
    path.write_bytes(pickle.dumps(cycle))
    assert set(load_checkpoint_file(path)) == {"model"}


def test_arrays_that_torch_does_not_have(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.ones(2, np.longdouble)}}))
    with pytest.raises(CheckpointError, match=r"model\.pkl"):
        load_checkpoint_file(path)


UNSAFE = {
    "eval",
    "exec",
    "pickle.load",
    "pickle.loads",
    "cloudpickle.load",
    "torch.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "shutil.unpack_archive",
    "LazyConfig.load",
}
REVIEWED = {
    ("sap_detr/checkpoint/safe_load.py", "torch.load"),  # weights_only
    ("sap_detr/commands/install_detectron2.py", "shutil.unpack_archive"),  # its SHA-256 is known
    ("sap_detr/config.py", "LazyConfig.load"),  # configs that are Python
}


def test_nothing_else_reads_files_that_could_run_code():
    files = [
        path
        for folder in ("sap_detr", "tools", "projects")
        for path in (ROOT / folder).rglob("*.py")
        if "tests" not in path.parts
    ]
    assert len(files) > 50
    calls = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                allowed = {k.arg for k in node.keywords if ast.unparse(k.value) != "False"}
                if name in UNSAFE or {"allow_pickle", "shell"} & allowed:
                    calls.add((path.relative_to(ROOT).as_posix(), name))
    assert calls == REVIEWED
