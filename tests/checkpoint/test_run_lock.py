from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import pytest
from detectron2.utils import comm

from sap_detr.checkpoint import CheckpointError, lock_run_folder, release_run_folder

HOLD = """
import os, sys, time
from sap_detr.checkpoint import lock_run_folder
lock_run_folder(sys.argv[1])
# A worker that outlives its parent must not keep the lock.
if os.fork() == 0:
    print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _release(tmp_path):
    yield
    release_run_folder(tmp_path)


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as other:
        assert other.stdout.readline() == b"locked\n"
        holder = f"another run .*process {other.pid} on {socket.gethostname()}"
        with pytest.raises(CheckpointError, match=holder):
            lock_run_folder(tmp_path)
        other.kill()
        other.wait()
        lock_run_folder(tmp_path)
        lock_run_folder(tmp_path)
        # The worker is still there.
        os.killpg(other.pid, signal.SIGKILL)
    assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def is_locked(folder) -> bool:
    """As another process sees it."""

    def attempt():
        try:
            lock_run_folder(folder)
        except CheckpointError:
            os._exit(1)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=attempt)
    child.start()
    child.join()
    return child.exitcode == 1


def test_the_lock_is_held_until_it_is_released(tmp_path):
    lock_run_folder(tmp_path)
    # Also after a process that was forked has ended.
    assert is_locked(tmp_path)
    assert is_locked(tmp_path)
    release_run_folder(tmp_path)
    assert not is_locked(tmp_path)
    release_run_folder(tmp_path)


def test_a_folder_that_was_made_anew_is_locked_anew(tmp_path):
    lock_run_folder(tmp_path)
    for content in (None, "another run's"):
        (tmp_path / ".lock").unlink()
        if content:
            (tmp_path / ".lock").write_text(content)
        lock_run_folder(tmp_path)
        assert is_locked(tmp_path)
    release_run_folder(tmp_path)
    assert not is_locked(tmp_path)


def test_what_a_killed_run_left_is_removed(tmp_path):
    for name in (".model_0000009.pth.123.tmp", ".last_checkpoint.9.tmp", "notes.tmp", ".a.tmp"):
        (tmp_path / name).touch()
    lock_run_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "notes.tmp", ".a.tmp"}


def test_file_systems_without_locks_are_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    lock_run_folder(tmp_path)
    assert "can't be locked (No locks available)" in caplog.text


def test_a_folder_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"output_dir=.*file"):
        lock_run_folder(tmp_path / "file")


def test_only_the_main_process_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    lock_run_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    refused = CheckpointError("the main process was refused")
    monkeypatch.setattr(comm, "all_gather", lambda _: [(None, refused)])
    with pytest.raises(CheckpointError, match="refused"):
        lock_run_folder(tmp_path)
