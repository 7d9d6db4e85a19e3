import itertools
import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from sap_detr.engine import StepTrainer
from sap_detr.engine.setup import build_model


class Quadratic(nn.Module):
    """loss = |w|^2 * sum(image), recorded with a random number per forward pass."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.drawn = []

    def forward(self, batch):
        self.drawn.append(torch.rand(()).item())
        return {"loss_a": sum(inputs["x"] for inputs in batch) * self.w.pow(2).sum()}


def forever(*values):
    while True:
        for value in values:
            yield [{"x": value, "instances": []}]


def make(model, *values, lr=0.1, **arguments):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return StepTrainer(model, forever(*values), optimizer, **arguments)


def run(trainer, first, last):
    with EventStorage(first) as storage:
        for iteration in range(first, last):
            storage.iter = trainer.iter = iteration
            trainer.run_step()
    return storage


def test_gradient_is_clipped_over_the_whole_model():
    model = Quadratic()
    trainer = make(model, 1.0, lr=1.0, max_grad_norm=0.1)
    storage = run(trainer, 0, 1)
    trainer.metric_period = 1
    # The gradient is 2 * (3, 4), of norm 10.
    assert torch.allclose(model.w, torch.tensor([3.0 - 0.06, 4.0 - 0.08]))
    with storage:
        trainer.flush_metrics()
    assert storage.latest()["grad_norm"][0] == pytest.approx(10.0)


def test_metrics_are_read_at_the_period_with_their_own_iterations():
    trainer = make(Quadratic(), 1.0, lr=0.0, metric_period=3)
    storage = run(trainer, 0, 2)
    assert "total_loss" not in storage.latest()
    storage = run(trainer, 2, 3)
    history = storage.history("total_loss").values()
    assert [iteration for _, iteration in history] == [0, 1, 2]
    assert [value for value, _ in history] == pytest.approx([25.0] * 3)
    assert storage.iter == 2


def test_a_loss_that_is_not_finite_is_named():
    trainer = make(Quadratic(), 1.0, math.nan, metric_period=2)
    with pytest.raises(FloatingPointError, match=r"iteration 1: total_loss, loss_a"):
        run(trainer, 0, 2)


def test_random_numbers_are_a_function_of_the_iteration():
    whole, first, second = Quadratic(), Quadratic(), Quadratic()
    run(make(whole, 1.0, seed=7), 0, 4)
    run(make(first, 1.0, seed=7), 0, 2)
    torch.rand(100)
    run(make(second, 1.0, seed=7), 2, 4)
    assert first.drawn + second.drawn == whole.drawn
    assert len(set(whole.drawn)) == 4
    other = Quadratic()
    run(make(other, 1.0, seed=8), 0, 4)
    assert not set(other.drawn) & set(whole.drawn)


def objects(count: int) -> Instances:
    low = torch.rand(count, 2) * 30
    boxes = torch.cat((low, low + 5 + torch.rand(count, 2) * 20), dim=1)
    classes = torch.randint(0, 6, (count,))
    return Instances((64, 64), gt_boxes=Boxes(boxes), gt_classes=classes)


def test_accumulated_gradient_is_that_of_several_processes(tiny_config):
    """Box losses are divided by the mean number of objects of all batches of the step."""
    tiny_config.model.num_classes = 6
    tiny_config.model.encoder.dropout = 0.0
    model = build_model(tiny_config).double().train()
    batches = [
        [{"image": torch.randint(0, 255, (3, 64, 64)), "instances": objects(n)} for n in counts]
        for counts in ((1, 0), (4, 3))
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = StepTrainer(model, iter(batches), optimizer, accumulation=2)
    run(trainer, 0, 1)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    accumulated = {name: p.grad.clone() for name, p in trained.items()}

    model.zero_grad()
    for batch in batches:
        # As with two processes: each normalises by (1 + 7) / 2 objects, gradients are averaged.
        batch[0]["objects_per_batch"] = 4.0
        (sum(model(batch).values()) / 2).backward()
    assert len(accumulated) > 20
    for name, p in trained.items():
        assert torch.allclose(accumulated[name], p.grad, atol=1e-12), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains_on_the_cpu(tiny_config, dtype):
    tiny_config.model.num_classes = 6
    model = build_model(tiny_config)
    batch = [{"image": torch.randint(0, 255, (3, 64, 64)), "instances": objects(3)}]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = StepTrainer(
        model, itertools.repeat(batch), optimizer, amp_dtype=dtype, metric_period=2, max_grad_norm=1
    )
    before = model.decoder.query_embed.weight.clone()
    # float16 skips the first steps, until its loss scale is low enough.
    storage = run(trainer, 0, 14)
    assert not torch.equal(model.decoder.query_embed.weight, before)
    assert math.isfinite(storage.latest()["total_loss"][0])
    assert ("grad_scaler" in trainer.state_dict()) == (dtype == "float16")
