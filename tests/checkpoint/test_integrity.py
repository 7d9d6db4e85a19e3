"""Damaged checkpoints are refused, or what they hold is still what was written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from sap_detr.checkpoint import CheckpointError, load_checkpoint_file, save_checkpoint_file

DATA = {"model": {"weight": torch.arange(4.0), "bias": torch.ones(2)}, "class_names": ["a"]}


def is_whole(path: Path) -> bool:
    """Whether a file is loaded; what is loaded must be as it was."""
    try:
        loaded = load_checkpoint_file(path)
    except CheckpointError as error:
        if str(path) not in str(error):
            raise
        return False
    assert loaded.keys() == DATA.keys()
    assert loaded["class_names"] == DATA["class_names"]
    assert loaded["model"].keys() == DATA["model"].keys()
    for name, value in DATA["model"].items():
        assert loaded["model"][name].dtype == value.dtype
        assert torch.equal(loaded["model"][name], value)
    return True


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_no_flipped_bit_and_no_cut_loads_other_values(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    save_checkpoint_file(DATA, path)
    content = path.read_bytes()
    assert is_whole(path)
    noticed = 0
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(content):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                noticed += not is_whole(path)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert is_whole(path)
    # The rest are dates, padding and the like, of which a file of this size has more than weights.
    assert noticed > 4 * len(content)
    # All that end in the last record or shortly before, and some others.
    for size in [*range(0, len(content), 23), *range(len(content) - 100, len(content))]:
        path.write_bytes(content[:size])
        assert not is_whole(path), size
    for more in (b"x", b"PK\x05\x06", bytes(1000)):
        path.write_bytes(content + more)
        assert not is_whole(path)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_flipped_bit_of_a_tensor_is_noticed(tmp_path, suffix, part):
    path = tmp_path / f"model{suffix}"
    save_checkpoint_file(DATA, path)
    content = path.read_bytes()
    values = DATA["model"][part].numpy().tobytes()
    assert content.count(values) == 1
    start = content.index(values)
    for place in range(start, start + len(values)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            assert not is_whole(path), (place, bit)


def test_other_programs_read_the_files(tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint_file(DATA, path)
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert torch.equal(loaded["model"]["weight"], DATA["model"]["weight"])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_a_published_file_is_checked_by_its_parts(tmp_path):
    path = tmp_path / "published.pth"
    torch.save(DATA, path)
    assert is_whole(path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 3.0))] ^= 1
    path.write_bytes(content)
    # What torch does not look at.
    assert not torch.equal(torch.load(path)["model"]["weight"], DATA["model"]["weight"])
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint_file(path)


def test_files_of_earlier_versions_are_read(tmp_path):
    """Those had a seal: the comment of the archive, or a field of the safetensors header."""
    path = tmp_path / "model.pth"
    buffer = io.BytesIO()
    torch.save(DATA, buffer)
    unsealed = buffer.getvalue()[:-2] + struct.pack("<H", 71) + b"sha256:"
    path.write_bytes(unsealed + hashlib.sha256(unsealed).hexdigest().encode())
    assert is_whole(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_whole(path)

    path = tmp_path / "model.safetensors"
    save_checkpoint_file(DATA, path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    del header["__metadata__"]["tensor_sha256"]
    header["__metadata__"] |= {"checksum": "sha256", "sha256": "0" * 64}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    assert is_whole(path)


def test_a_full_disk_comes_out_as_it_is(tmp_path):
    path = tmp_path / "model.pth"
    # Where the file is written before it is renamed.
    (tmp_path / f".model.pth.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint_file({"model": {"weight": torch.ones(1_000_000)}}, path)
    assert list(tmp_path.iterdir()) == []


class FailingFile(io.BytesIO):
    """Raises an error at one of its writes, and goes on after it."""

    def __init__(self, error: BaseException, at: int) -> None:
        super().__init__()
        self.error, self.writes_left = error, at

    def write(self, data) -> int:
        self.writes_left -= 1
        if self.writes_left == 0:
            raise self.error
        return super().write(data)


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_of_any_write_comes_out_as_it_is(tmp_path, monkeypatch, error, at):
    """Torch's writer, which goes on after an error, must not bring about another one."""
    monkeypatch.setattr(Path, "open", lambda self, mode: FailingFile(error, at))
    try:
        raise LookupError("what is being handled is another matter")
    except LookupError:
        with pytest.raises(type(error)) as raised:
            save_checkpoint_file({"model": {"weight": torch.ones(10_000)}}, tmp_path / "model.pth")
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []
