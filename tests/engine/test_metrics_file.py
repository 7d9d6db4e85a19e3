import json
import os

import pytest

from sap_detr.engine import metrics_file
from sap_detr.engine.metrics_file import ForgivingWriter, trim_metrics


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_a_killed_run_logged_beyond_its_checkpoint_is_removed(tmp_path):
    path = tmp_path / "metrics.json"
    kept = [{"iteration": 1, "a": 1.0}, {"iteration": 3, "a": 0.5}, {"iteration": 2, "AP": 7}]
    later = [{"iteration": 4, "a": 0.4}, {"iteration": 5, "a": 0.3}]
    order = [*kept[:2], later[0], kept[2], later[1]]
    path.write_text("".join(json.dumps(record) + "\n" for record in order) + '{"iteration": 1, "a')
    # As Detectron2's writer has it.
    with path.open("a") as writer:
        trim_metrics(path, 4)
        assert lines(path) == kept
        writer.write(json.dumps({"iteration": 4, "a": 0.4}) + "\n")
    assert lines(path) == [*kept, {"iteration": 4, "a": 0.4}]
    before = os.stat(path)
    trim_metrics(path, 5)
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    trim_metrics(path, 0)
    assert path.read_text() == ""
    trim_metrics(tmp_path / "missing.json", 0)
    assert not (tmp_path / "missing.json").exists()


class Writer:
    def __init__(self, *errors):
        self.errors = list(errors)

    def write(self):
        error = self.errors.pop(0)
        if error is not None:
            raise error

    close = write


def test_full_disk_does_not_end_training(caplog):
    full = OSError(28, "No space left on device")
    writer = ForgivingWriter(Writer(full, full, None, full, ValueError("a bug")))
    writer.write()
    writer.write()
    assert caplog.text.count("No space left") == 1
    writer.write()
    writer.close()
    assert caplog.text.count("No space left") == 2
    with pytest.raises(ValueError, match="a bug"):
        writer.write()


def test_file_that_can_not_be_trimmed_is_left(tmp_path, monkeypatch, caplog):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 4}\n')

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(metrics_file.Path, "open", fail)
    trim_metrics(path, 0)
    monkeypatch.undo()
    assert path.read_text() == '{"iteration": 4}\n'
    assert "could not trim" in caplog.text
