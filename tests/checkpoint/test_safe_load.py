from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from sap_detr.checkpoint import (
    CheckpointError,
    UntrustedCheckpointError,
    load_checkpoint_file,
    save_checkpoint_file,
)
from sap_detr.checkpoint.array_pickle import Latin1Bytes


class Malicious:
    """Creates a file when unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("kind", ["plain pickle", "zip", "legacy torch"])
def test_malicious_file_is_refused_and_not_executed(tmp_path, suffix, kind):
    marker, path = tmp_path / "executed", tmp_path / f"model{suffix}"
    data = {"model": {"weight": torch.ones(2)}, "payload": Malicious(marker)}
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps({"model": {}, "payload": Malicious(marker)}))
    else:
        torch.save(data, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint_file(path)
    assert not marker.exists()
    assert str(path) in str(error.value)
    if (suffix, kind) == (".pkl", "plain pickle") or kind == "zip":
        assert isinstance(error.value, UntrustedCheckpointError)
        assert "mkdir" in str(error.value)
    # The payload works: what was refused is what an ordinary load would have run.
    if kind == "plain pickle":
        pickle.loads(path.read_bytes())
        assert marker.exists()


def test_pickle_of_allowed_module_but_other_attribute_is_refused(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cnumpy\nload\n(S'x'\ntR.")
    with pytest.raises(UntrustedCheckpointError, match=r"numpy\.load"):
        load_checkpoint_file(path)


def test_dotted_name_does_not_reach_through_an_allowed_class(tmp_path):
    path = tmp_path / "model.pkl"
    # protocol 4: STACK_GLOBAL of ("numpy", "ndarray.tofile")
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(UntrustedCheckpointError, match=r"ndarray\.tofile"):
        load_checkpoint_file(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_detectron2_pickle(tmp_path, protocol):
    path = tmp_path / "R-50.pkl"
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = OrderedDict(weight=weight, big=np.ones(2, ">f4"), t=weight.T, step=np.array(7))
    data = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    loaded = load_checkpoint_file(path)
    assert loaded["__author__"] == "torchvision"
    assert torch.equal(loaded["model"]["weight"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(loaded["model"]["big"], torch.ones(2))
    assert torch.equal(loaded["model"]["t"], loaded["model"]["weight"].T)
    assert loaded["model"]["step"] == 7


def test_pickle_under_the_module_names_of_numpy_1(tmp_path):
    path = tmp_path / "R-50.pkl"
    data = pickle.dumps({"model": {"weight": np.ones(3, np.float32)}}, protocol=2)
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core." in path.read_bytes()
    assert torch.equal(load_checkpoint_file(path)["model"]["weight"], torch.ones(3))


def test_pickle_written_by_python_2(tmp_path):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(
        b"(dp0\nS'model'\np1\n(dp2\nS'weight'\np3\ncnumpy.core.multiarray\n_reconstruct\n"
        b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR"
        b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\ntbss."
    )
    assert load_checkpoint_file(path)["model"]["weight"].tolist() == [1.0, -2.0]


def test_array_of_pointers_is_refused(tmp_path):
    path = tmp_path / "model.pkl"
    for content in (
        pickle.dumps({"model": np.array([object, None], dtype=object)}, protocol=2),
        b"cnumpy\nndarray\n((I1\ntS'O'\nS'12345678'\ntR.",  # bytes taken for pointers
        b"cnumpy\nndarray\n((I1\ntS'f4'\nS'1234'\nI-400\ntR.",  # memory before the bytes
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_checkpoint_file(path)


def test_pickle_can_not_change_what_reads_it(tmp_path):
    path = tmp_path / "model.pkl"
    # BUILD with a slot state on the stand-in itself would set attributes of it.
    path.write_bytes(b"c_codecs\nencode\n(N(dS'__defaults__'\n(S'zlib'\ntstb.")
    with pytest.raises(CheckpointError):
        load_checkpoint_file(path)
    assert not hasattr(Latin1Bytes, "__defaults__")


def test_published_args_namespace_is_admitted(tmp_path):
    path = tmp_path / "published.pth"
    args = argparse.Namespace(lr=1e-4, device="cuda", sizes=[1, 2])
    torch.save({"model": {"weight": torch.ones(2)}, "args": args}, path)
    assert load_checkpoint_file(path)["args"] == args


def test_missing_empty_text_and_folder(tmp_path):
    empty, page = tmp_path / "empty.pth", tmp_path / "page.pth"
    empty.touch()
    page.write_text("\n<!DOCTYPE html><html>not found</html>")
    for path, word in (
        (tmp_path / "no.pth", "does not exist"),
        (tmp_path, "not a file"),
        (empty, "empty"),
        (page, "web page"),
    ):
        with pytest.raises(CheckpointError, match=word) as error:
            load_checkpoint_file(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth", "a.pkl", "a.safetensors"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_file(tmp_path, name, keep):
    path = tmp_path / name
    model = {f"weight{i}": torch.ones(50) for i in range(5)}
    if name == "a.pkl":
        path.write_bytes(pickle.dumps({"model": {"weight": np.ones(500)}}))
    elif name == "legacy.pth":
        torch.save({"model": model}, path, _use_new_zipfile_serialization=False)
    else:
        save_checkpoint_file({"model": model}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match="truncated") as error:
        load_checkpoint_file(path)
    assert not isinstance(error.value, UntrustedCheckpointError)
    assert str(path) in str(error.value)


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint_file(tmp_path / "list.pth")


def test_torch_round_trip(tmp_path):
    path = tmp_path / "model.pth"
    weight = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    data = {
        "model": {"weight": weight, "half": torch.ones(2, dtype=torch.bfloat16)},
        "optimizer": optimizer.state_dict(),
        "iteration": 7,
        "class_names": ["cat", None],
    }
    save_checkpoint_file(data, path)
    loaded = load_checkpoint_file(path)
    assert torch.equal(loaded["model"]["weight"], weight)
    assert loaded["model"]["half"].dtype == torch.bfloat16
    assert loaded["optimizer"]["param_groups"] == data["optimizer"]["param_groups"]
    assert (loaded["iteration"], loaded["class_names"]) == (7, ["cat", None])


def test_safetensors_round_trip_with_shared_and_strided_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    shared = torch.randn(2, 3)
    data = {
        "model": {"a": shared, "b": shared, "t": shared.T},
        "class_names": ["cat", None, "dög"],
        "optimizer": {},
    }
    save_checkpoint_file(data, path)
    loaded = load_checkpoint_file(path)
    assert set(loaded) == {"model", "class_names"}
    assert loaded["class_names"] == ["cat", None, "dög"]
    for name in data["model"]:
        assert torch.equal(loaded["model"][name], data["model"][name])


def test_save_refuses_what_could_not_be_read_back(tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(CheckpointError, match=r"\['hooks'\]\[1\]\['path'\] is a .*PosixPath"):
        save_checkpoint_file({"model": {}, "hooks": [{}, {"path": tmp_path}]}, path)
    with pytest.raises(CheckpointError, match=r"\['best'\] is a numpy.float64"):
        save_checkpoint_file({"model": {}, "best": np.float64(0.4)}, path)
    for data in ({"weight": torch.ones(1)}, {"model": {"weight": [1.0]}}):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: No state dict"):
            save_checkpoint_file(data, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        save_checkpoint_file({"model": {}}, tmp_path / "no" / "model.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"model{suffix}"
    save_checkpoint_file({"model": {"weight": torch.zeros(2)}}, path)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint_file({"model": {"weight": torch.ones(2)}}, path)
    monkeypatch.undo()
    assert torch.equal(load_checkpoint_file(path)["model"]["weight"], torch.zeros(2))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_file_is_synced_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("replace"), replace(a, b)))
    save_checkpoint_file({"model": {}}, tmp_path / "model.pth")
    assert steps == ["sync", "replace", "sync"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("val.json", b'{"images": []}'),
        ("val.pth", b' [{"image_id": 1}]'),
        ("config.yaml", b"train:\n  seed: 1\n"),
        ("config.py", b"from detectron2 import config\n"),
    ],
)
def test_texts_are_told_to_be_no_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is no checkpoint, but a text.*pth") as error:
        load_checkpoint_file(tmp_path / name)
    assert "weights_only" not in str(error.value)


def test_torchs_advice_to_run_what_is_in_a_file_is_not_passed_on(tmp_path):
    path = tmp_path / "photo.pth"
    path.write_bytes(b"\xff\xd8\xff\xe0 a picture, for example")
    with pytest.raises(CheckpointError, match="can't be read as a torch") as error:
        load_checkpoint_file(path)
    assert "weights_only" not in str(error.value)
