from __future__ import annotations

import weakref

import pytest
import torch
from detectron2.utils import comm
from torch import nn

from sap_detr.checkpoint import (
    CheckpointError,
    SafeCheckpointer,
    UntrustedCheckpointError,
    checkpointer,
    load_checkpoint_file,
    save_checkpoint_file,
    to_ours,
)


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
    model = state_model(to_ours(published_detr(2), "detr"), 2)
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
    assert set(content) == {"model", "optimizer", "trainer", "class_names", "note"}
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

    monkeypatch.setattr("sap_detr.checkpoint.safe_load.os.replace", interrupted)
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
    with pytest.raises(UntrustedCheckpointError, match="Linear"):
        saver.resume_or_load("", resume=True)


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    *_, saver = run_of(tmp_path)
    saver.save("model")
    assert list(tmp_path.iterdir()) == []


def test_file_that_another_process_lacks_is_an_error_everywhere(tmp_path, monkeypatch):
    *_, saver = run_of(tmp_path)
    saver.save("model")
    monkeypatch.setattr(checkpointer.comm, "all_gather", lambda readable: [readable, False])
    with pytest.raises(CheckpointError, match="1 of 2 processes"):
        saver.resume_or_load("", resume=True)


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
