from __future__ import annotations

import errno
import os
import weakref
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from torch import nn

from sap_detr.checkpoint import (
    CheckpointError,
    SafeCheckpointer,
    UntrustedCheckpointError,
    load_checkpoint_file,
    save_checkpoint_file,
)
from sap_detr.modeling import DETR


class Counter:
    """A trainer, as far as a checkpointer is concerned."""

    def __init__(self, iteration: int = 0) -> None:
        self.iteration = iteration

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


def run_of(folder, seed=0, **kwargs):
    """A linear model with its optimizer, trainer and checkpointer."""
    torch.manual_seed(seed)
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    trainer = Counter()
    saver = SafeCheckpointer(
        model, folder, optimizer=optimizer, trainer=weakref.proxy(trainer), **kwargs
    )
    return model, optimizer, trainer, saver


def step(model, optimizer):
    model["encoder"](torch.ones(1, 2)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_resumed_run_continues_exactly(tmp_path):
    model, optimizer, trainer, saver = run_of(tmp_path)
    step(model, optimizer)
    trainer.iteration = 9
    saver.save("model_0000009", iteration=9)
    step(model, optimizer)

    other, other_optimizer, other_trainer, other_saver = run_of(tmp_path, seed=1)
    rest = other_saver.resume_or_load("not used", resume=True)
    assert other_trainer.iteration == 9
    assert rest["iteration"] == 9
    step(other, other_optimizer)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_without_resume_only_weights_are_loaded(tmp_path):
    model, optimizer, trainer, saver = run_of(tmp_path)
    step(model, optimizer)
    trainer.iteration = 9
    saver.save("model_final")
    other, other_optimizer, other_trainer, other_saver = run_of(tmp_path, seed=1)
    other_saver.resume_or_load(str(tmp_path / "model_final.pth"), resume=False)
    assert torch.equal(other["encoder"].weight, model["encoder"].weight)
    assert other_saver.load_report.complete
    assert other_trainer.iteration == 0
    assert not other_optimizer.state_dict()["state"]


def test_first_run_with_resume_starts_from_weights(tmp_path, published_detr, state_model):
    save_checkpoint_file({"model": published_detr(91), "epoch": 3}, tmp_path / "detr.pth")
    model = state_model(DETR.to_ours(published_detr(2)), 2)
    saver = SafeCheckpointer(model, tmp_path / "run", class_names=["zebra", "cat"])
    assert saver.resume_or_load(str(tmp_path / "detr.pth"), resume=True) == {"epoch": 3}
    assert saver.load_report.format == "detr"
    assert torch.equal(
        model.state_dict()["decoder.class_head.weight"],
        published_detr(91)["class_embed.weight"][[24, 17, 91]],
    )
    save_checkpoint_file(published_detr(91), tmp_path / "bare.pth")
    assert saver.load(str(tmp_path / "bare.pth")) == {}


def test_class_names_and_further_content_are_saved(tmp_path):
    *_, saver = run_of(tmp_path, class_names=("a", "b"))
    saver.save("model", note="text")
    content = load_checkpoint_file(tmp_path / "model.pth")
    assert set(content) == {"model", "optimizer", "trainer", "class_names", "note", "run_id"}
    assert content["class_names"] == ["a", "b"]
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    saver.save("model_best", tag_last=False)
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    assert len(list(tmp_path.iterdir())) == 3
    *_, other = run_of(tmp_path, class_names=["b", "a"])
    with pytest.raises(CheckpointError, match="class names or their order differ"):
        other.resume_or_load("", resume=True)


def test_resuming_needs_everything_and_the_same_model(tmp_path):
    model, _, _, saver = run_of(tmp_path)
    saver.save("model")
    with_ema = SafeCheckpointer(model, tmp_path, trainer=Counter(), ema=Counter())
    with pytest.raises(CheckpointError, match="it has no ema"):
        with_ema.resume_or_load("", resume=True)
    for other in (nn.Linear(3, 2), nn.Linear(2, 2, bias=False)):
        trainer = Counter(3)
        strict = SafeCheckpointer(nn.ModuleDict({"encoder": other}), tmp_path, trainer=trainer)
        with pytest.raises(CheckpointError, match="Can't resume"):
            strict.resume_or_load("", resume=True)
        assert trainer.iteration == 3


def test_interrupted_save_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    model, _, _, saver = run_of(tmp_path)
    saver.save("model_1")
    before = (tmp_path / "model_1.pth").read_bytes()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("sap_detr.checkpoint.safe_save.os.replace", interrupted)
    with torch.no_grad():
        model["encoder"].weight.zero_()
    for name in ("model_1", "model_2"):
        with pytest.raises(KeyboardInterrupt):
            saver.save(name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last_checkpoint", "model_1.pth"]
    assert (tmp_path / "model_1.pth").read_bytes() == before
    assert saver.get_checkpoint_file() == str(tmp_path / "model_1.pth")


def test_files_are_never_executed(tmp_path):
    *_, saver = run_of(tmp_path)
    torch.save({"model": {}, "x": nn.Linear(1, 1)}, tmp_path / "bad.pth")
    saver.tag_last_checkpoint("bad.pth")
    with pytest.raises(CheckpointError, match="Linear"):
        saver.resume_or_load("", resume=True)
    with pytest.raises(UntrustedCheckpointError, match="Linear"):
        saver.resume(str(tmp_path / "bad.pth"))


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    *_, saver = run_of(tmp_path)
    saver.save("model")
    assert list(tmp_path.iterdir()) == []


def test_all_processes_read_the_file_that_the_main_one_chose(tmp_path, monkeypatch):
    *_, saver = run_of(tmp_path)
    save_at(saver, 9)
    save_at(saver, 19)
    *_, trainer, other = run_of(tmp_path)
    chosen = iter([[(tmp_path / "model_0000009.pth", None)] * 2])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda own: next(chosen, [own, own]))
    other.resume_or_load("", resume=True)
    assert trainer.iteration == 9
    chosen = iter([[(None, CheckpointError("none is whole")), (None, None)]])
    with pytest.raises(CheckpointError, match="none is whole"):
        other.resume_or_load("", resume=True)


@pytest.mark.parametrize(
    ("elsewhere", "message"),
    [
        (CheckpointError("it does not exist"), "1 of 2 processes only.* it does not exist"),
        (-1, "not the same file for all processes"),
    ],
)
def test_file_that_differs_between_processes_is_an_error_everywhere(
    tmp_path, monkeypatch, elsewhere, message
):
    *_, saver = run_of(tmp_path)
    saver.save("model")
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, elsewhere])
    with pytest.raises(CheckpointError, match=message):
        saver.resume(str(tmp_path / "model.pth"))


def test_wrapped_models_are_saved_without_prefix(tmp_path):
    model = nn.DataParallel(nn.ModuleDict({"encoder": nn.Linear(2, 2)}))
    SafeCheckpointer(torch.compile(model), tmp_path).save("model")
    content = load_checkpoint_file(tmp_path / "model.pth")
    assert set(content["model"]) == {"encoder.weight", "encoder.bias"}


def test_no_path_and_missing_path(tmp_path):
    *_, saver = run_of(tmp_path)
    assert saver.resume_or_load("", resume=True) == {}
    with pytest.raises(CheckpointError, match="does not exist"):
        saver.resume_or_load(str(tmp_path / "no.pth"), resume=False)
    with pytest.raises(ValueError, match="can't contain a folder"):
        saver.save("a/b")


def save_at(saver, iteration, name=None):
    """As the trainer does at the end of an iteration."""
    saver.checkpointables["trainer"].iteration = iteration
    return saver.save(name or f"model_{iteration:07d}")


def resumed_iteration(folder):
    """The iteration that a new process goes on from, and what it loaded."""
    *_, trainer, saver = run_of(folder, seed=1)
    saver.resume_or_load("", resume=True)
    return trainer.iteration, saver.resumed_from.name


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    # Not just anywhere: there may be padding.
    content[content.index(b"encoder.weight")] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, flip, empty, Path.unlink])
def test_damaged_checkpoint_is_skipped_for_the_newest_whole_one(tmp_path, harm, caplog):
    *_, saver = run_of(tmp_path)
    for iteration in (9, 99, 19):
        save_at(saver, iteration)
    (tmp_path / "last_checkpoint").write_text("model_0000099.pth")
    # The order is that of iterations: the file of the lowest one is the youngest.
    os.utime(tmp_path / "model_0000009.pth", (2e9, 2e9))
    harm(tmp_path / "model_0000099.pth")
    assert resumed_iteration(tmp_path) == (19, "model_0000019.pth")
    assert "model_0000099.pth" in caplog.text
    harm(tmp_path / "model_0000019.pth")
    assert resumed_iteration(tmp_path) == (9, "model_0000009.pth")
    save_at(saver, 29, "model_best")
    save_at(saver, 5, "model_final")
    (tmp_path / "last_checkpoint").unlink()
    assert resumed_iteration(tmp_path) == (9, "model_0000009.pth")
    # The best one is better than nothing.
    for path in (tmp_path / "model_0000009.pth", tmp_path / "model_final.pth"):
        harm(path)
    assert resumed_iteration(tmp_path) == (29, "model_best.pth")


@pytest.mark.parametrize("tag", ["", "model_0000077.pth", "../other/model.pth", "\0\x01\n", None])
def test_useless_tag_is_no_obstacle(tmp_path, tag):
    *_, saver = run_of(tmp_path)
    save_at(saver, 9)
    save_at(saver, 19, "model_final")
    (tmp_path / "last_checkpoint").unlink()
    if tag is not None:
        (tmp_path / "last_checkpoint").write_bytes(tag.encode() or b"\xff\xfe")
    assert resumed_iteration(tmp_path) == (19, "model_final.pth")


def test_without_a_whole_checkpoint_nothing_starts_anew(tmp_path):
    model, *_, saver = run_of(tmp_path)
    save_at(saver, 9)
    save_at(saver, 19)
    for path in tmp_path.glob("*.pth"):
        flip(path)
    before = model["encoder"].weight.clone()
    message = r"none of them is whole:\n- .*model_0000019.pth.*\n- .*model_0000009.pth.*checksum"
    with pytest.raises(CheckpointError, match=message):
        saver.resume_or_load("", resume=True)
    assert torch.equal(model["encoder"].weight, before)


def test_another_model_is_an_error_and_no_reason_to_go_back(tmp_path):
    *_, saver = run_of(tmp_path)
    save_at(saver, 9)
    save_at(saver, 19)
    other = SafeCheckpointer(nn.ModuleDict({"encoder": nn.Linear(3, 2)}), tmp_path)
    with pytest.raises(CheckpointError, match=r"(?s)resume from .*model_0000019.pth.*weight"):
        other.resume_or_load("", resume=True)


def test_optimizer_of_other_groups_is_an_error_that_names_the_file(tmp_path):
    model, *_, saver = run_of(tmp_path)
    save_at(saver, 9)
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    other = SafeCheckpointer(model, tmp_path, optimizer=torch.optim.AdamW(groups, lr=0.1))
    with pytest.raises(CheckpointError, match=r"model_0000009.pth: its optimizer does not fit"):
        other.resume_or_load("", resume=True)


def test_tag_may_lag_behind_its_own_run_but_not_behind_an_earlier_one(tmp_path):
    *_, earlier = run_of(tmp_path)
    for iteration in (19, 29):
        save_at(earlier, iteration)
    *_, saver = run_of(tmp_path)
    save_at(saver, 9)
    # The earlier run's checkpoints are in the way, but not of this run.
    assert resumed_iteration(tmp_path) == (9, "model_0000009.pth")
    save_at(saver, 19)
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert resumed_iteration(tmp_path) == (19, "model_0000019.pth")
    save_at(saver, 24, "model_final")
    (tmp_path / "last_checkpoint").write_text("model_0000019.pth")
    assert resumed_iteration(tmp_path) == (24, "model_final.pth")
    # The newest that can be this run's.
    for path in (tmp_path / "model_final.pth", tmp_path / "model_0000019.pth"):
        flip(path)
    assert resumed_iteration(tmp_path) == (9, "model_0000009.pth")


def test_resumed_run_is_the_same_run(tmp_path):
    *_, saver = run_of(tmp_path)
    save_at(saver, 9)
    *_, other = run_of(tmp_path)
    assert other.run_id != saver.run_id
    other.resume_or_load("", resume=True)
    assert other.run_id == saver.run_id


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_does_not_end_training(tmp_path, monkeypatch, caplog, number, call):
    *_, saver = run_of(tmp_path)
    assert save_at(saver, 9)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"sap_detr.checkpoint.safe_save.os.{call}", fail)
        assert not save_at(saver, 19)
        assert not saver.save("model_final")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert os.strerror(number) in caplog.text
    with pytest.raises(CheckpointError, match=r"model_final.pth could not be written.*--resume"):
        saver.require_saved("model_final", "model_best")
    assert save_at(saver, 29)
    assert set(saver.failures) == {"model_final"}
    assert saver.save("model_final")
    saver.require_saved("model_final", "model_best")


def test_number_of_kept_checkpoints_holds_after_resuming(tmp_path):
    *_, saver = run_of(tmp_path, max_to_keep=2)
    for iteration in (9, 19, 29):
        save_at(saver, iteration)
    save_at(saver, 29, "model_best")
    *_, other = run_of(tmp_path, max_to_keep=2)
    other.resume_or_load("", resume=True)
    save_at(other, 39)
    save_at(other, 39, "model_final")
    names = {path.stem for path in tmp_path.glob("*.pth")}
    assert names == {"model_0000029", "model_0000039", "model_final", "model_best"}


def test_the_only_whole_checkpoint_is_kept(tmp_path):
    *_, saver = run_of(tmp_path, max_to_keep=1)
    saver.max_to_keep = None
    for iteration in (9, 19, 29):
        save_at(saver, iteration)
    for number in (19, 29):
        flip(tmp_path / f"model_00000{number}.pth")
    *_, trainer, other = run_of(tmp_path, max_to_keep=1)
    other.resume_or_load("", resume=True)
    assert trainer.iteration == 9
    # Another period than before: the damaged ones of higher iterations don't push it out.
    save_at(other, 14)
    assert {path.stem for path in tmp_path.glob("*.pth")} == {
        "model_0000014",
        "model_0000019",
        "model_0000029",
    }
    assert resumed_iteration(tmp_path) == (14, "model_0000014.pth")


class Averages(Counter):
    def __init__(self, weight):
        self.weight = weight

    def state_dict(self):
        return {"encoder.weight": self.weight, "num_updates": torch.tensor(1)}


@pytest.mark.parametrize("where", ["model", "average"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, where):
    model, *_ = run_of(tmp_path)
    average = Averages(model["encoder"].weight.detach().clone())
    saver = SafeCheckpointer(model, tmp_path, average=average)
    saver.save("model_0000009")
    with torch.no_grad():
        (model["encoder"].weight if where == "model" else average.weight)[0, 1] = torch.inf
    with pytest.raises(FloatingPointError, match=f"its {where} .*encoder.weight"):
        saver.save("model_0000019")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    assert not (tmp_path / "model_0000019.pth").exists()


def test_content_of_ones_own_checkpoint(tmp_path, caplog):
    *_, saver = run_of(tmp_path)
    save_at(saver, 9)
    save_at(saver, 7, "model_best")
    assert saver.read_own("model_best") == {}
    *_, other = run_of(tmp_path)
    other.resume_or_load("", resume=True)
    assert other.read_own("model_best")["trainer"] == {"iteration": 7}
    assert other.read_own("model_other") == {}
    *_, stranger = run_of(tmp_path)
    stranger.save("model_best", tag_last=False)
    assert other.read_own("model_best") == {}
    flip(tmp_path / "model_best.pth")
    assert other.read_own("model_best") == {}
    assert "model_best.pth" in caplog.text
