from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sap_detr.analysis import BenchmarkModel, Workload, count_host_syncs

CPU = torch.device("cpu")


def names_of(run) -> dict[str, int]:
    return {key.partition(" at ")[0]: times for key, times in count_host_syncs(run, CPU).items()}


@pytest.mark.parametrize(
    "run, expected",
    [
        (lambda x: x.sum().item(), {"_local_scalar_dense": 1}),
        (lambda x: bool(x.any()), {"_local_scalar_dense": 1}),
        (lambda x: x.nonzero(), {"nonzero": 1}),
        (lambda x: x.cpu().numpy(), {"cpu": 1}),
        (lambda x: x.to("cpu").numpy(), {"to": 1}),
        (lambda x: x.to(device="cpu"), {"to": 1}),
        (lambda x: [x.tolist(), x.tolist()], {"tolist": 2}),
        (lambda x: x[x > 0], {"index": 1}),
        (lambda x: x.masked_select(x > 0), {"masked_select": 1}),
        (lambda x: x.repeat_interleave(torch.tensor([1, 2])), {"repeat_interleave": 1}),
        (lambda x: F.one_hot(x.long(), -1), {"_local_scalar_dense": 2}),
        # What a GPU does without asking.
        (lambda x: F.one_hot(x.long(), 4), {}),
        (lambda x: x.repeat_interleave(torch.tensor([1, 2]), output_size=3), {}),
        (lambda x: x[torch.tensor([1, 0])], {}),
        (lambda x: x.masked_fill(x > 0, 1.0) + x.to(torch.float64).sum(), {}),
    ],
)
def test_by_name(run, expected):
    assert names_of(lambda: run(torch.tensor([0.0, 1.0]))) == expected


def test_says_where():
    (where,) = count_host_syncs(lambda: torch.ones(1).item(), CPU)
    assert where.startswith("_local_scalar_dense at analysis/test_host_syncs.py:")


def test_optimizer_may_read_its_counters():
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    assert count_host_syncs(optimizer.step, CPU)
    assert count_host_syncs(optimizer.step, CPU, optimizer) == {}

    def read(*_) -> None:
        weight.sum().item()

    optimizer.register_step_pre_hook(read)
    assert sum(count_host_syncs(optimizer.step, CPU, optimizer).values()) == 1


@pytest.mark.parametrize("model", ["detr", "sap_detr"])
@pytest.mark.parametrize("batch", [1, 2])
def test_training_step_waits_for_the_matcher_only(model, batch):
    """All layers and images cross to the host in one copy; no number is read one by one."""
    benchmark = BenchmarkModel(
        Workload(f"common/models/{model}_small.py", num_classes=5, size=(64, 96), batch=batch)
    )
    trainer = benchmark.trainer()
    trainer.run_step()
    syncs = count_host_syncs(trainer.run_step, CPU, trainer.optimizer)
    assert list(syncs.values()) == [1]
    assert next(iter(syncs)).startswith("cpu at modeling/matcher.py:")
