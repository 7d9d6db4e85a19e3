from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from sap_detr.checkpoint import CheckpointError, load_checkpoint_file, save_checkpoint_file
from sap_detr.checkpoint.integrity import SealedFile, read_seal

DATA = {"model": {"weight": torch.arange(4.0), "bias": torch.ones(2)}, "class_names": ["a"]}


def is_noticed(path: Path) -> bool:
    try:
        load_checkpoint_file(path)
    except CheckpointError as error:
        return str(path) in str(error)
    return False


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    save_checkpoint_file(DATA, path)
    content = path.read_bytes()
    assert not is_noticed(path)
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(content):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                assert is_noticed(path), (place, bit)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert not is_noticed(path)
    # All that end in the seal or shortly before, and some others.
    for size in [*range(0, len(content), 23), *range(len(content) - 100, len(content))]:
        path.write_bytes(content[:size])
        assert is_noticed(path), size
    path.write_bytes(content + b"x")
    assert is_noticed(path)


def test_other_programs_read_a_sealed_file(tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint_file(DATA, path)
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert torch.equal(loaded["model"]["weight"], DATA["model"]["weight"])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment == b"sha256:" + read_seal(path).encode()


def test_a_file_without_seal_is_checked_by_its_parts(tmp_path):
    path = tmp_path / "published.pth"
    torch.save(DATA, path)
    assert read_seal(path) is None
    assert not is_noticed(path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 3.0))] ^= 1
    path.write_bytes(content)
    # What torch does not look at.
    assert not torch.equal(torch.load(path)["model"]["weight"], DATA["model"]["weight"])
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint_file(path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_of_the_disk_comes_out_as_it_is(tmp_path, monkeypatch, error):
    def fail(self, data):
        raise error

    monkeypatch.setattr(SealedFile, "_put", fail)
    with pytest.raises(type(error)) as raised:
        save_checkpoint_file({"model": {"weight": torch.ones(10_000)}}, tmp_path / "model.pth")
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_once_has_failed(tmp_path, monkeypatch):
    """Torch's writer, which goes on after an error, must not bring about another one."""
    file = SealedFile(tmp_path / "file")
    error = OSError(28, "No space left on device")

    def fail(data):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(file, "_put", fail)
        assert file.write(b"x" * 100) == 100
    assert file.write(b"x" * 100) == 100
    with pytest.raises(OSError, match="No space left") as raised:
        file.close()
    assert raised.value is error
