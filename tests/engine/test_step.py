import itertools
import json
import math
from functools import partial

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from sap_detr.analysis import count_host_syncs
from sap_detr.config import load_config
from sap_detr.engine import ModelEma, StepTrainer
from sap_detr.engine.non_finite import NonFinitePolicy
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


def test_policy_stop_names_what_is_not_finite():
    model = Quadratic()
    policy = NonFinitePolicy("stop")
    trainer = make(model, 1.0, math.nan, metric_period=2, non_finite=policy)
    with pytest.raises(FloatingPointError, match=r"iteration 1: total_loss, loss_a.*'stop'"):
        run(trainer, 0, 2)
    with pytest.raises(FloatingPointError, match="iteration 1"):
        trainer.flush_metrics()


OPTIMIZERS = {
    "fused": partial(torch.optim.AdamW, fused=True),
    "not fused": partial(torch.optim.AdamW, fused=False),
    "momentum": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", [0, 2])
def test_skipped_step_changes_nothing(kind, bad, first):
    def train(*values):
        model = Quadratic()
        optimizer = OPTIMIZERS[kind](model.parameters(), lr=0.1)
        trainer = StepTrainer(model, forever(*values), optimizer, max_grad_norm=1.0)
        run(trainer, 0, len(values))
        return model, optimizer, trainer

    values = [1.0, 2.0, 3.0, 4.0]
    expected, expected_optimizer, _ = train(*values)
    model, optimizer, trainer = train(*values[:first], bad, bad, *values[first:])
    assert torch.equal(model.w, expected.w)
    state, expected_state = optimizer.state[model.w], expected_optimizer.state[expected.w]
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[key], expected_state[key]) for key in state)
    with EventStorage(0) as storage:
        trainer.flush_metrics()
    assert storage.latest()["skipped_steps"][0] == 2
    assert all(math.isfinite(v) for v, _ in storage.history("total_loss").values())
    assert [i for _, i in storage.history("total_loss").values()] == [
        i for i in range(6) if i not in (first, first + 1)
    ]


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, batch):
        return {"loss_a": self.norm(batch[0]["x"]).square().sum()}


@pytest.mark.parametrize(("kind", "most"), [("fused", 0), ("not fused", 1), ("momentum", 1)])
def test_host_does_not_wait_to_know_whether_a_step_is_skipped(kind, most):
    model = Normalised()
    optimizer = OPTIMIZERS[kind](model.parameters(), lr=0.1)
    batches = forever(torch.full((3, 2), math.nan), torch.rand(3, 2))
    trainer = StepTrainer(model, batches, optimizer, metric_period=100, max_grad_norm=0.1)
    ema = ModelEma(model, 0.9)
    run(trainer, 0, 2)
    ema.update(trainer.skip)

    def step():
        trainer.run_step()
        ema.update(trainer.skip)

    waits = count_host_syncs(step, torch.device("cpu"), optimizer)
    # Those of the average are for its own counter, which is on the host on every machine.
    waits = {place: n for place, n in waits.items() if "engine/ema.py" not in place}
    assert sum(waits.values()) == most, waits


class RootOfNothing(nn.Module):
    """A finite loss with a gradient that is NaN in the second of two parameters."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.ones(2))
        self.second = nn.Parameter(torch.zeros(3))

    def forward(self, batch):
        return {"loss_a": self.first.sum() + (0 * self.second).sqrt().sum()}


def test_report_has_the_images_the_losses_and_the_worst_gradients(tmp_path):
    model = RootOfNothing()
    batch = [
        {"image": torch.zeros(3, 4, 6), "image_id": 7, "file_name": "a/7.jpg", "instances": [1, 2]},
        {"image": torch.zeros(3, 5, 8), "image_id": 8, "file_name": "a/8.jpg", "instances": []},
    ]
    trainer = StepTrainer(
        model,
        itertools.repeat(batch),
        torch.optim.SGD(model.parameters(), lr=0.1),
        metric_period=3,
        max_grad_norm=0.1,
        report_dir=tmp_path,
    )
    run(trainer, 4, 6)
    names = ["iteration_4_rank_0.json", "iteration_5_rank_0.json"]
    assert sorted(path.name for path in (tmp_path / "non_finite").iterdir()) == names
    report = json.loads((tmp_path / "non_finite" / names[0]).read_text())
    assert report["iteration"] == 4
    assert report["rank"] == 0
    assert report["images"] == [
        [
            {"image_id": 7, "file_name": "a/7.jpg", "size": [4, 6], "objects": 2},
            {"image_id": 8, "file_name": "a/8.jpg", "size": [5, 8], "objects": 0},
        ]
    ]
    assert report["losses"] == {"total_loss": 2.0, "loss_a": 2.0, "grad_norm": "nan"}
    assert report["gradients"]["norm"] == "nan"
    assert report["gradients"]["parameters_not_finite"] == 1
    # Before clipping; the worst first.
    largest = report["gradients"]["largest"]
    assert list(largest) == ["second", "first"]
    assert largest["second"] == "nan"
    assert largest["first"] == pytest.approx(math.sqrt(2))
    assert report["weights_not_finite"] == []
    assert torch.equal(model.first, torch.ones(2))


@pytest.mark.parametrize(
    ("policy", "values", "message"),
    [
        (NonFinitePolicy(max_consecutive=2), [1.0, *[math.nan] * 3], "max_consecutive=2"),
        (NonFinitePolicy(max_skipped=2), [math.nan, 1.0] * 3, "3 steps .*max_skipped=2"),
    ],
)
def test_too_many_skipped_steps_end_training(policy, values, message):
    trainer = make(Quadratic(), *values[:-1], metric_period=1, non_finite=policy)
    run(trainer, 0, len(values) - 2)
    assert trainer.failure is None
    trainer = make(Quadratic(), *values, metric_period=1, non_finite=policy)
    with pytest.raises(FloatingPointError, match=message):
        run(trainer, 0, len(values))


def test_count_of_skipped_steps_survives_resuming():
    policy = NonFinitePolicy(max_skipped=3)
    first = make(Quadratic(), math.nan, 1.0, metric_period=2, non_finite=policy)
    run(first, 0, 4)
    second = make(Quadratic(), math.nan, 1.0, metric_period=2, non_finite=policy)
    second.load_state_dict(first.state_dict())
    storage = run(second, 4, 6)
    assert storage.latest()["skipped_steps"][0] == 3
    with pytest.raises(FloatingPointError, match="max_skipped=3"):
        run(second, 6, 8)


def test_weights_that_are_not_finite_are_named_at_once():
    model = Quadratic()
    with torch.no_grad():
        model.w[1] = math.inf
    trainer = make(model, 1.0, metric_period=1)
    with pytest.raises(FloatingPointError, match=r"iteration 0: .*weights themselves.*: w;"):
        run(trainer, 0, 1)


def test_running_averages_of_batch_norms_are_not_spoilt():
    good, bad = torch.arange(6.0).view(3, 2), torch.full((3, 2), math.nan)
    states = []
    for batches in ([good, good], [good, bad, good]):
        model = Normalised()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run(StepTrainer(model, forever(*batches), optimizer), 0, len(batches))
        states.append(model.state_dict())
    assert states[0]["norm.num_batches_tracked"] == 2
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Overflowing(nn.Module):
    """The scaled gradient is more than float16 can hold, the first times."""

    def __init__(self, factor):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))
        self.factor = factor

    def forward(self, batch):
        return {"loss_a": (self.w.half() * self.factor).sum().float()}


def test_overflows_of_the_loss_scale_are_no_faults(tmp_path):
    model = Overflowing(64.0)
    policy = NonFinitePolicy(max_skipped=0, max_consecutive=0)
    arguments = {"amp_dtype": "float16", "metric_period": 1, "report_dir": tmp_path}
    trainer = make(model, 1.0, non_finite=policy, **arguments)
    storage = run(trainer, 0, 12)
    assert model.w.item() < 1
    assert storage.latest()["skipped_steps"][0] == 0
    assert len(storage.history("grad_norm").values()) < 12
    assert not list(tmp_path.iterdir())
    # No scale helps.
    trainer = make(Overflowing(math.inf), 1.0, non_finite=policy, **arguments)
    trainer.model.forward = lambda _: {"loss_a": InfiniteGradient.apply(trainer.model.w)}
    with pytest.raises(FloatingPointError, match="17 steps in a row overflowed"):
        run(trainer, 0, 20)


class InfiniteGradient(torch.autograd.Function):
    """A finite loss whose gradient is always infinite."""

    @staticmethod
    def forward(ctx, w):
        return w.detach().sum()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full((1,), math.inf)


def test_infinite_loss_in_mixed_precision_is_a_fault():
    trainer = make(Quadratic(), 1.0, math.inf, amp_dtype="float16", metric_period=2)
    storage = run(trainer, 0, 2)
    assert storage.latest()["skipped_steps"][0] == 1


@pytest.mark.parametrize("kind", ["detr", "sap_detr"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_no_part_of_a_model_stumbles_over_weights_that_are_not_finite(kind, value):
    overrides = ["model.num_classes=6", "model.backbone.width=8", "model.neck.in_channels=[16]"]
    model = build_model(load_config(f"{kind}/{kind}_small_shapes.py", overrides)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    batch = [{"image": torch.zeros(3, 64, 64), "instances": objects(n)} for n in (3, 0)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = StepTrainer(model, itertools.repeat(batch), optimizer)
    run(trainer, 0, 2)
    assert trainer.skip
    model.eval()
    assert len(model(batch)) == 2


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
        (sum(model(batch, num_objects=4.0).values()) / 2).backward()
    assert len(accumulated) > 20
    for name, p in trained.items():
        assert torch.allclose(accumulated[name], p.grad, atol=1e-12), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains_on_the_cpu(tiny_config, dtype):
    tiny_config.model.num_classes = 6
    # torch 2.14 crashes in two threads on processors with bfloat16, where a convolution of stride 2
    # has 8 channels or fewer.
    tiny_config.model.backbone.width = 16
    tiny_config.model.neck.in_channels = [32]
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
